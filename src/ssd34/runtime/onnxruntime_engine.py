"""ONNX Runtime, imported here alone, and as an engine."""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import Port
from ssd34.errors import MissingExtraError, ModelError, Ssd34Error
from ssd34.files.tree import text_of
from ssd34.runtime.engine import ONNXRUNTIME, describe_failure, describe_refusal
from ssd34.text import one_line

# Read when the library is loaded: it would look up a host and write to the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

REINSTALL_GPU = (
    "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]'"
)
"""Both packages write the same files: the last one installed wins, and to uninstall either takes
them from both."""

try:
    import onnxruntime as onnxruntime

    _ = onnxruntime.InferenceSession
except (ImportError, AttributeError) as error:
    if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        raise KeyboardInterrupt from None
    raise MissingExtraError(
        f"ONNX Runtime is not installed or broken ({one_line(error)}); install "
        f"it again: pip install --force-reinstall onnxruntime; or for a GPU: {REINSTALL_GPU}"
    ) from error


def open_onnx(model: Path | bytes, options: Any) -> Any:
    """ONNX Runtime's session of a file, or of what is in one, on the CPU; it takes paths as UTF-8,
    whatever the locale."""
    content = text_of(model) if isinstance(model, Path) else model
    providers = ["CPUExecutionProvider"]  # alone: to try others, it would print that it does
    return onnxruntime.InferenceSession(
        content, options, providers=providers, enable_fallback=False
    )


PROBE = base64.b64decode(
    "CAU6tgEKKAoBeAoBcwoBegoBdwoBcwoBdgoBdAoBehIBeSILUUxpbmVhckNvbnYSAWcqCxABQgFzSgQAAIA/KggQ"
    "AkIBekoBACofCAQIBAgBCAEQA0IBd0oQf39/f39/f39/f39/f39/fyoIEANCAXZKAQAqCxABQgF0SgQAAP5DWhsK"
    "AXgSFgoUCAISEAoCCAEKAggECgIIAQoCCAFiGwoBeRIWChQIAhIQCgIIAQoCCAQKAggBCgIIAUIECgAQCg=="
)
"""An ONNX file: a QLinearConv of four unsigned bytes with four weights of 127. Its exact answer to
bytes of 255 is 255."""


@functools.cache
def int8_saturates() -> bool:
    """Whether sums of unsigned times signed bytes come out too small here, as ONNX Runtime computes
    them by default.

    Processors with VNNI add the products at 32 bits; others add pairs of them at 16 bits first,
    which 255 * 127 * 2 exceeds. The system may not say what the processor has, so it is tried.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    (answer,) = open_onnx(PROBE, options).run(None, {"x": np.full((1, 4, 1, 1), 255, np.uint8)})
    return int(answer.min()) < 255


class OnnxRuntimeEngine:
    """See `ssd34.runtime.engine.Engine`."""

    name = ONNXRUNTIME
    version: str = onnxruntime.__version__

    def __init__(self, path: Path, options: onnxruntime.SessionOptions) -> None:
        """Load a file, see `session_options`; ModelError where it is broken or has operators that
        ONNX Runtime does not have."""
        try:
            self._session = self._open(path, options)
            self.inputs = tuple(_port(port) for port in self._session.get_inputs())
            self.outputs = tuple(_port(port) for port in self._session.get_outputs())
            # UnicodeDecodeError: texts in a file need not be UTF-8.
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except Ssd34Error:
            raise
        except Exception as error:  # the library has no common base of its own
            raise ModelError(describe_refusal(path, error)) from None
        self._path = path

    def _open(self, path: Path, options: onnxruntime.SessionOptions) -> Any:
        return open_onnx(path, options)

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `ssd34.runtime.engine.Engine`."""
        try:
            found: list[NDArray[Any]] = self._session.run(list(outputs), feed)
        except Exception as error:  # the library has no common base of its own
            raise ModelError(describe_failure(self._path, self.name, error)) from error
        return found

    def end_profiling(self) -> str:
        """Write the profile that the options asked for; returns its file."""
        return str(self._session.end_profiling())


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """How a graph is run; what else was tried: docs/decisions/0011-session-options.md."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads wait for work busily while a graph runs, but not for another 20 ms after it, which
    # whatever comes next would pay: the next model's turn, or decoding the next picture.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_saturates():
        # Exact, and slow: only where the fast way is wrong.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _port(port: onnxruntime.NodeArg) -> Port:
    # [] is what it says of a number, and where the file says nothing of the shape.
    return Port(port.name, port.type, tuple(port.shape) or None)
