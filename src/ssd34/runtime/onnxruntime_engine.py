"""ONNX Runtime as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssd34.core.contract import Port
from ssd34.errors import ModelError, Ssd34Error
from ssd34.runtime.engine import ONNXRUNTIME, describe_failure, describe_refusal
from ssd34.runtime.libraries import int8_saturates, onnxruntime, open_onnx


class OnnxRuntimeEngine:
    """See `ssd34.runtime.engine.Engine`."""

    name = ONNXRUNTIME
    version: str = onnxruntime.__version__

    def __init__(
        self, path: Path, *, threads: int, options: onnxruntime.SessionOptions | None = None
    ) -> None:
        """Load a file with the options, or those of `session_options`; ModelError where it is
        broken or has operators that ONNX Runtime does not have."""
        try:
            self._session = self._open(path, options or session_options(threads))
        except Ssd34Error:
            raise
        except Exception as error:  # the library has no common base of its own
            raise ModelError(describe_refusal(path, error)) from None
        self._path = path
        self.inputs = tuple(_port(port) for port in self._session.get_inputs())
        self.outputs = tuple(_port(port) for port in self._session.get_outputs())
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

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
    """How a graph is run; graph optimisation is "all", which is ONNX Runtime's default.

    What else was tried, with measurements: docs/decisions/0011-session-options.md.
    """
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
    return Port(port.name, port.type, tuple(port.shape))
