"""Where the time of one `Detector.detect` goes: before, in and after the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ssd34.runtime.detector import Detector, Picture
from ssd34.runtime.engine import Engine


class StageTimes(NamedTuple):
    """Milliseconds of one picture.

    Attributes:
        preprocess: decoding, resizing, normalising.
        network: the file, its own tail included.
        tail: the rest: the policy of raw files, pixels, names.
    """

    preprocess: float
    network: float
    tail: float


class StagedDetector:
    """A detector that says where its time went. Not for several threads at once."""

    def __init__(self, detector: Detector) -> None:
        """
        Args:
            detector: is changed: its engine is timed from now on.
        """
        self.detector = detector
        self._engine = _TimedEngine(detector.session.engine)
        detector.session.engine = self._engine

    def detect(self, picture: Picture) -> StageTimes:
        """Detect in one picture."""
        started = time.perf_counter()
        self.detector.detect(picture)
        ended = time.perf_counter()
        entered, left = self._engine.entered, self._engine.left
        return StageTimes(
            1000 * (entered - started), 1000 * (left - entered), 1000 * (ended - left)
        )


class _TimedEngine:
    """An engine that notes when its last run began and ended."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.version, self.metadata = engine.name, engine.version, engine.metadata
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.entered = self.left = 0.0
        self._engine = engine

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.entered = time.perf_counter()
        found = self._engine.run(outputs, feed)
        self.left = time.perf_counter()
        return found
