"""What runs an ONNX file: ONNX Runtime, on the processor or on a GPU, OpenVINO or our own code,
where these are installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ssd34.core.contract import Port
from ssd34.text import one_line

ONNXRUNTIME = "onnxruntime"
OPENVINO = "openvino"
NATIVE = "native"
CUDA = "cuda"
DEFAULT_ENGINE = ONNXRUNTIME
AUTO = "auto"
"""Measure and take the fastest."""

ENGINES = (ONNXRUNTIME, OPENVINO, NATIVE, CUDA)

_COMPUTES = (b"QuantizeLinear", b"QLinearConv")
"""Operators by which values become int8, or are computed as such. DequantizeLinear alone, which has
another q, belongs to files that only store their weights so."""


class Engine(Protocol):
    """A loaded graph. `run` may be called by several threads at once."""

    name: str
    version: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The named outputs, in that order, for inputs by name; ModelError where the engine cannot
        run the file on them."""


def run_all(engine: Engine, tensor: NDArray[Any]) -> list[NDArray[Any]]:
    """Every output for the file's input; ModelError as of `Engine.run`."""
    return engine.run([port.name for port in engine.outputs], {engine.inputs[0].name: tensor})


def computes_in_int8(path: Path) -> bool:
    """Whether an ONNX file computes in int8, instead of at most storing its weights so."""
    content = path.read_bytes()
    return any(operator in content for operator in _COMPUTES)


def describe_refusal(path: Path, error: Exception) -> str:
    """The message for a file that an engine does not load, in one line."""
    reason = one_line(error)
    return (
        f"{path}: not an ONNX file that can be run ({reason}); if it was cut off or is something "
        "else, fetch or export it again"
    )


def describe_failure(path: Path, engine: str, error: Exception) -> str:
    """The message for a file that an engine has loaded and fails to run, in one line."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # OpenVINO names the places in its source first.
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines
    reason = lines[0][:200] if lines else type(error).__name__
    return (
        f"{path}: loaded, but the engine {engine} failed to run it ({reason}); try another engine, "
        "or export the file again"
    )
