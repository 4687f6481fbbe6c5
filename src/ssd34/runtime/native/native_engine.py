"""The native engine: ONNX Runtime around convolutions of our own; the extra ``native``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssd34.errors import ModelError, require
from ssd34.machine import trim_heap
from ssd34.runtime.engine import NATIVE, describe_failure
from ssd34.runtime.onnxruntime_engine import onnxruntime, open_onnx, session_options
from ssd34.text import one_line


class NativeEngine:
    """See `ssd34.runtime.engine.Engine`. What it computes is equal to ONNX Runtime's, bit for bit.

    Attributes:
        level: name of the instruction set that it uses.
    """

    name = NATIVE

    def __init__(
        self, path: Path, *, threads: int, streams: int = 1, level: str | None = None
    ) -> None:
        """
        Args:
            path: an ONNX file.
            threads: that one run uses.
            streams: runs that will be under way at once.
            level: the instruction set; None: as `choose_level` says.

        Raises:
            MissingExtraError: llvmlite or onnx is not installed.
            ModelError: broken, not in int8, or not for this processor.
        """
        require_libraries()
        from ssd34.runtime.native.graph import cut, optimize
        from ssd34.runtime.native.levels import choose_level
        from ssd34.runtime.native.network import NativeNetwork
        from ssd34.runtime.native.self_check import check_level

        chosen = choose_level(level)
        try:
            check_level(chosen)
        except RuntimeError as error:  # LLVM's
            raise ModelError(
                f"the engine native was not compiled here ({one_line(error)}); "
                "use the engine onnxruntime"
            ) from error
        self.level = chosen.name
        self.version = f"{onnxruntime.__version__} and {chosen.name}"
        self._path = path
        try:
            whole, model = optimize(path)
        except OSError as error:
            raise ModelError(
                f"the engine native needs a folder for temporary files ({error}); use the engine "
                "onnxruntime, or set TMPDIR"
            ) from error
        self.inputs, self.outputs, self.metadata = whole.inputs, whole.outputs, whole.metadata
        parts = cut(model)
        if parts is None:
            raise ModelError(
                f"{path}: has no int8 convolutions that the engine native computes; use the "
                "engine onnxruntime, or make an int8 file with: ssd34 quantize"
            )
        try:
            self._before, self._after = (
                open_onnx(part.SerializeToString(), session_options(threads))
                for part in (parts.before, parts.after)
            )
        except Exception as error:  # as where a part of the graph reads from around it
            raise ModelError(
                f"{path}: the engine native cannot take its graph apart ({one_line(error)}); use "
                "the engine onnxruntime"
            ) from None
        entry, *others = self._before.get_outputs()
        self._passed_on = [port.name for port in others]
        wanted = {port.name for port in self._after.get_inputs()}
        self._read_again = [port.name for port in self.inputs if port.name in wanted]
        size = entry.shape[1:3]
        if not all(isinstance(side, int) for side in size):
            raise ModelError(
                f"{path}: the engine native needs pictures of one size, got {size}; use the engine "
                "onnxruntime"
            )
        self._network = NativeNetwork(
            parts.convolutions,
            chosen,
            entry=parts.entry,
            size=tuple(size),
            exits=list(parts.exits),
            threads=threads,
            streams=streams,
        )
        del model, parts, whole
        trim_heap()

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The named outputs, in that order, for inputs by name.

        Raises:
            ModelError: it cannot run the file on them.
        """
        return self.run_timed(outputs, feed)[0]

    def run_timed(
        self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]
    ) -> tuple[list[NDArray[Any]], list[float]]:
        """What `run` gives, and the seconds that its three parts took."""
        from ssd34.runtime.native.graph import TURNED

        times = [time.perf_counter()]
        try:
            entry, *others = self._before.run(None, feed)
            times.append(time.perf_counter())
            with self._network.run(entry) as exits:
                times.append(time.perf_counter())
                given: dict[str, NDArray[Any]] = {name + TURNED: x for name, x in exits.items()}
                given |= dict(zip(self._passed_on, others, strict=True))
                given |= {name: feed[name] for name in self._read_again}
                found: list[NDArray[Any]] = self._after.run(list(outputs), given)
            times.append(time.perf_counter())
        except Exception as error:  # the library has no common base of its own
            raise ModelError(describe_failure(self._path, self.name, error)) from error
        return found, [end - start for start, end in itertools.pairwise(times)]


def require_libraries() -> None:
    """
    Raises:
        MissingExtraError: what the engine needs is not installed.
    """
    for module in ("llvmlite", "onnx"):
        require(module, extra="native", why="the engine native")
