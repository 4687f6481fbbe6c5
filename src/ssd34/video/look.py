"""Frames to detections, with numbers that follow an object from frame to frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.detections import Detections
from ssd34.errors import require
from ssd34.machine import overlapped
from ssd34.runtime.detector import DEFAULT_SCORE, Detector, Prepared
from ssd34.video.feed import Feed
from ssd34.video.film import Frame, Sound

WEAK = 0.5
"""A box keeps a track alive from this share of the score threshold on; it is not shown."""

LOST_AFTER = 1.0
"""Seconds without a box after which a track has ended."""

_OVERLAP = 0.25


@dataclass(frozen=True, eq=False)
class Look:
    """A frame and what was found in it.

    Attributes:
        number: of the frame in the source, from 0.
        time: seconds since the beginning.
        pixels: (H, W, 3) uint8 RGB, upright.
        found: what scores enough.
        tracks: the number of each object, from 1; None: they are not followed.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8]
    found: Detections
    tracks: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: frame, time, and `Detections.to_dict`, each object with its track."""
        values = {"frame": self.number, "time": round(self.time, 6), **self.found.to_dict()}
        for one, track in zip(values["detections"], self.tracks or (), strict=bool(self.tracks)):
            one["track"] = track
        return values


class Follower:
    """Tracks of objects: ByteTrack, for each class by itself, so that a track keeps its class."""

    def __init__(self, *, score: float) -> None:
        """
        Args:
            score: boxes that score less continue tracks, and begin none.

        Raises:
            MissingExtraError: the tracker is not installed.
        """
        self._library = require("edgefirst.tracker", extra="video", why="--track")
        self._score = score
        self._trackers: dict[int, Any] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0

    def follow(self, found: Detections, time: float) -> list[int | None]:
        """The track of each object of the next frame; None: it is too weak to begin one.

        Args:
            found: also boxes that score too little to be shown.
            time: of the frame, seconds; never smaller than before.
        """
        names: list[str | None] = [None] * len(found)
        for label in {*self._trackers, *found.labels.tolist()}:
            if label not in self._trackers:
                self._trackers[label] = self._library.ByteTrack(
                    high_conf=self._score, iou=_OVERLAP, lifespan_ns=round(LOST_AFTER * 1e9)
                )
            rows = np.flatnonzero(found.labels == label)
            infos = self._trackers[label].update(
                found.boxes[rows],
                found.scores[rows],
                found.labels[rows].astype(np.uintp),
                round(time * 1e9),
            )
            for row, info in zip(rows.tolist(), infos, strict=True):
                names[row] = None if info is None else info.uuid
        tracks = [None if name is None else self._number_of(name) for name in names]
        self._forget()
        return tracks

    def _number_of(self, track: str) -> int:
        if track not in self._numbers:
            self._last += 1
            self._numbers[track] = self._last
        return self._numbers[track]

    def _forget(self) -> None:
        """Drop tracks that have ended: a film may be long."""
        active = {
            track.info.uuid
            for tracker in self._trackers.values()
            for track in tracker.get_active_tracks()
        }
        self._numbers = {name: number for name, number in self._numbers.items() if name in active}


def look_at(
    feed: Feed,
    detector: Detector,
    *,
    score: float = DEFAULT_SCORE,
    wanted: Sequence[int] = (),
    track: bool = False,
) -> Iterator[Look | Sound]:
    """Find objects in every frame, and pass the sound on, in their order.

    The next frame of a film is made ready while the network works on this one.

    Args:
        feed: within its ``with`` block.
        detector: looks for objects.
        score: leave out what scores less.
        wanted: labels to keep; empty: all.
        track: follow the objects.

    Raises:
        VideoError: nothing of the film could be decoded.
        LargeImageError: a frame is too large.
        MissingExtraError: the tracker is not installed.
    """
    follower = Follower(score=score) if track else None

    def prepare(item: Frame | Sound) -> Sound | tuple[Frame, NDArray[np.uint8], Prepared]:
        if isinstance(item, Sound):
            return item
        pixels = item.pixels()
        return item, pixels, detector.prepare(pixels)

    # Of a live source the answer does not wait for the next frame.
    with closing(overlapped(prepare, feed, ahead=0 if feed.live else 1, threads=1)) as coming:
        for item in coming:
            if isinstance(item, Sound):
                yield item
                continue
            frame, pixels, prepared = item
            found = detector.find(prepared, score=score * WEAK if follower else score)
            if wanted:
                found = found.where(np.isin(found.labels, wanted))
            if follower is None:
                yield Look(frame.number, frame.time, pixels, found)
                continue
            tracks = follower.follow(found, frame.time)
            shown = found.scores >= score
            # From the score on every box has a track: it begins one where it continues none.
            numbers = [number for number, keep in zip(tracks, shown, strict=True) if keep]
            known = tuple(number for number in numbers if number is not None)
            assert len(known) == len(numbers)
            yield Look(frame.number, frame.time, pixels, found.where(shown), known)
