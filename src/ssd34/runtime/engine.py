"""What runs an ONNX file: ONNX Runtime, or OpenVINO where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ssd34.errors import OptionError

ONNXRUNTIME = "onnxruntime"
OPENVINO = "openvino"
DEFAULT_ENGINE = ONNXRUNTIME
AUTO = "auto"
"""Measure and take the faster."""

ENGINES = (ONNXRUNTIME, OPENVINO)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: of the tensor.
        dtype: NumPy's name of the element type; empty where NumPy has none.
        shape: a side that is not fixed is None.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {['?' if side is None else side for side in self.shape]}"


class Engine(Protocol):
    """A loaded graph. `run` may be called by several threads at once."""

    name: str
    version: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The named outputs, in that order, for inputs by name.

        Raises:
            ModelError: the engine cannot run the file on them.
        """


def open_engine(path: Path, *, name: str, threads: int, streams: int = 1) -> Engine:
    """Load an ONNX file.

    Args:
        path: an ONNX file that exists.
        name: one of `ENGINES`.
        threads: that one call of `run` uses.
        streams: calls of `run` that will be under way at once.

    Raises:
        ModelError: the file is broken, or the engine cannot run it.
        MissingExtraError: the engine is not installed.
        OptionError: there is no such engine.
    """
    if name == ONNXRUNTIME:
        from ssd34.runtime.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, threads=threads)
    if name == OPENVINO:
        from ssd34.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(path, threads=threads, streams=streams)
    raise OptionError(f"unknown engine {name!r}; expected {', '.join(ENGINES)} or {AUTO}")


def refusal(path: Path, error: Exception) -> str:
    """The message for a file that an engine does not load, in one line."""
    reason = " ".join(str(error).split())[:200]
    return (
        f"{path}: not an ONNX file that can be run ({reason}); if it was cut off or is something "
        "else, fetch or export it anew"
    )


def failure(path: Path, engine: str, error: Exception) -> str:
    """The message for a file that an engine has loaded and fails to run, in one line."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # OpenVINO names the places in its source first.
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines
    reason = lines[0][:200] if lines else type(error).__name__
    return (
        f"{path}: loaded, but the engine {engine} failed to run it ({reason}); try another engine, "
        "or export the file anew"
    )
