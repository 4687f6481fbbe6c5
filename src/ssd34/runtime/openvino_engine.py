"""OpenVINO, imported here alone, and as an engine: the same files, the extra ``openvino``."""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import LARGEST_NARROW_WEIGHT, Port
from ssd34.errors import ModelError, require
from ssd34.runtime.engine import OPENVINO, describe_failure, describe_refusal
from ssd34.runtime.onnxruntime_engine import int8_saturates

_TELEMETRY = "openvino_telemetry"
_UNKNOWN = re.compile(
    "(?:Conversion is failed for|No conversion rule found for operations):(.+)", re.DOTALL
)
_ONNX_NAMES = {"float32": "float", "float64": "double"}
"""What ONNX calls an element type, where NumPy calls it otherwise."""


def load_openvino() -> ModuleType:
    """OpenVINO, whose conversion tools find no package to report their use with: that package fails
    where the home folder cannot be written. MissingExtraError where it is not installed."""
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return require("openvino", extra="openvino", why="the engine openvino")
    finally:
        if hidden:
            sys.modules.pop(_TELEMETRY, None)


@functools.cache
def openvino_core() -> Any:
    """The one core of this process; MissingExtraError where OpenVINO is not installed.

    On Linux each core gives the thread that makes it another stack for signals, and puts back the
    one before when it ends. Two that end in the order in which they were made leave a stack that is
    gone: the next signal with a handler, Ctrl+C or the end of a process, would end this one.
    """
    return load_openvino().Core()


class OpenVinoEngine:
    """See `ssd34.runtime.engine.Engine`."""

    name = OPENVINO

    def __init__(
        self, path: Path, *, threads: int, streams: int = 1, profiled: bool = False
    ) -> None:
        """Load a file; `streams` runs at once get threads of their own, and what is `profiled`
        keeps the time of each node. MissingExtraError: OpenVINO is not installed. ModelError:
        broken, with operators that OpenVINO does not have, or in int8 whose sums would come out too
        small on this processor."""
        openvino = load_openvino()
        self.version: str = openvino.__version__
        try:
            # Core.read_model would try every format that OpenVINO knows.
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            model = frontend.convert(frontend.load(str(path)))
        except Exception as error:  # RuntimeError of the C++ library, of many kinds
            raise ModelError(_refusal(path, error)) from None
        if int8_saturates() and _largest_weight(model) > LARGEST_NARROW_WEIGHT:
            raise ModelError(
                f"{path}: OpenVINO would compute its 8-bit weights wrongly on this processor, "
                "which has no VNNI; use the engine onnxruntime, or weights of 7 bits: ssd34 "
                "quantize with reduce_range: true in its --config"
            )
        try:
            self.inputs = tuple(_port(port) for port in model.inputs)
            self.outputs = tuple(_port(port) for port in model.outputs)
            # UnicodeDecodeError: texts in a file need not be UTF-8.
            self.metadata = _metadata(model)
            self._compiled = openvino_core().compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
                    "NUM_STREAMS": str(streams),
                    "INFERENCE_NUM_THREADS": threads * streams,
                    # Float graphs stay float32: OpenVINO may choose bfloat16 by itself.
                    "INFERENCE_PRECISION_HINT": "f32",
                    "PERF_COUNT": profiled,
                },
            )
        except Exception as error:  # RuntimeError of the C++ library, of many kinds
            raise ModelError(_refusal(path, error)) from None
        if not model.outputs:  # an empty file is a graph without nodes to OpenVINO
            raise ModelError(describe_refusal(path, ValueError("it has no outputs")))
        self._path = path
        self._indices = {port.name: index for index, port in enumerate(self.outputs)}
        self._requests = threading.local()

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `ssd34.runtime.engine.Engine`."""
        contiguous = {name: np.ascontiguousarray(value) for name, value in feed.items()}
        try:
            request = self._request()
            request.infer(contiguous, share_inputs=True)
        except Exception as error:  # RuntimeError of the C++ library, of many kinds
            raise ModelError(describe_failure(self._path, self.name, error)) from error
        # Copied: the next run writes into the same memory.
        return [request.get_output_tensor(self._indices[name]).data.copy() for name in outputs]

    def profile(self) -> list[tuple[str, str, float]]:
        """Name, type and milliseconds of each node of this thread's last run, in order of
        execution; needs `profiled`."""
        return [
            (node.node_name, node.node_type, node.real_time.total_seconds() * 1000)
            for node in self._request().profiling_info
        ]

    def _request(self) -> Any:
        """A request of the calling thread: one cannot be used by two at once."""
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        return self._requests.request


def _refusal(path: Path, error: Exception) -> str:
    found = _UNKNOWN.search(str(error))
    if found is None:
        return describe_refusal(path, error)
    return (
        f"{path}: OpenVINO cannot run its operators {' '.join(found[1].split())[:200]}; of int8 "
        "files it takes those in QDQ format; or use the engine onnxruntime"
    )


def _largest_weight(model: Any) -> int:
    """The largest magnitude among the int8 weights that are multiplied as such, 0 for none."""
    operators = model.get_ops()
    if not any(op.get_type_name() == "FakeQuantize" for op in operators):
        return 0  # int8 is only how its weights are stored
    constants = (op.data for op in operators if op.get_type_name() == "Constant")
    return max((int(np.abs(c.astype(np.int16)).max())
                for c in constants if c.dtype == np.int8 and c.size), default=0)  # fmt: skip


def _port(port: Any) -> Port:
    element = port.get_element_type()
    try:
        dtype = np.dtype(element.to_dtype()).name
    except Exception:  # types that NumPy does not have
        dtype = element.get_type_name()
    shape = port.get_partial_shape()
    sizes = (
        tuple(size.get_length() if size.is_static else None for size in shape)
        if shape.rank.is_static
        else None
    )
    name = port.get_any_name() if port.get_names() else ""
    return Port(name, f"tensor({_ONNX_NAMES.get(dtype, dtype)})", sizes)


def _metadata(model: Any) -> dict[str, str]:
    """The ONNX file's metadata, where OpenVINO keeps it."""
    try:
        entries = model.get_rt_info("framework").value
    except RuntimeError:  # there is none
        return {}
    return {name: str(getattr(value, "value", value)) for name, value in entries.items()}
