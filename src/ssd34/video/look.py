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
from ssd34.runtime.detector import DEFAULT_SCORE, Detector, PreparedPicture
from ssd34.video.feed import Feed
from ssd34.video.film import Frame, Sound

WEAK = 0.5
"""A box keeps a track alive from this share of the score threshold on; it is not shown."""

LOST_AFTER = 1.0
"""Seconds without a box after which a track has ended."""

_OVERLAP = 0.1
_GAIN = 1.0


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """A frame and what was found in it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        tracks: the number of each object, from 1; None: they are not followed.
    """

    frame: Frame
    pixels: NDArray[np.uint8]
    found: Detections
    tracks: list[int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: frame, time, and `Detections.to_dict`, each object with its track."""
        time = round(self.frame.time, 6)
        values = {"frame": self.frame.number, "time": time, **self.found.to_dict()}
        for one, track in zip(values["detections"], self.tracks or (), strict=bool(self.tracks)):
            one["track"] = track
        return values


class Follower:
    """Tracks of objects: ByteTrack, for each class by itself, so that a track keeps its class."""

    def __init__(self, *, score: float) -> None:
        """Boxes that score less than `score` continue tracks, and begin none. MissingExtraError
        where the tracker is not installed."""
        self._library = require("edgefirst.tracker", extra="video", why="--track")
        self._score = score
        self._trackers: dict[int, Any] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0

    def follow(self, found: Detections, time: float) -> list[int]:
        """The track of each object of the next frame, also of those that score too little to be
        shown; 0: it is too weak to begin one. Times, in seconds, never get smaller."""
        names = [""] * len(found)
        now = round(time * 1e9)
        for label in {*self._trackers, *found.labels.tolist()}:
            if label not in self._trackers:
                self._trackers[label] = self._library.ByteTrack(
                    high_conf=self._score,
                    iou=_OVERLAP,
                    update=_GAIN,
                    lifespan_ns=round(LOST_AFTER * 1e9),
                )
            rows = np.flatnonzero(found.labels == label)
            labels = found.labels[rows].astype(np.uintp)
            tracks = self._trackers[label].update(
                found.boxes[rows], found.scores[rows], labels, now
            )
            for row, track in zip(rows.tolist(), tracks, strict=True):
                names[row] = track.uuid if track else ""
        return [self._numbers.get(name, 0) for name in self._remember(names)]

    def _remember(self, names: list[str]) -> list[str]:
        """Number new tracks, and forget those that have ended: a film may be long."""
        alive = {
            track.info.uuid
            for tracker in self._trackers.values()
            for track in tracker.get_active_tracks()
        }
        self._numbers = {name: number for name, number in self._numbers.items() if name in alive}
        for name in names:
            if name and name not in self._numbers:
                self._last += 1
                self._numbers[name] = self._last
        return names


def look_at(
    feed: Feed,
    detector: Detector,
    *,
    score: float = DEFAULT_SCORE,
    wanted: Sequence[int] = (),
    track: bool = False,
) -> Iterator[SeenFrame | Sound]:
    """Find objects in every frame, and pass the sound on, in their order.

    The next frame of a film is made ready while the network works on this one. To follow the
    objects changes nothing of what is found.

    Args:
        feed: within its ``with`` block; its errors come out.
        score: leave out what scores less.
        wanted: labels to keep; empty: all.
        track: follow the objects; MissingExtraError: the tracker is not installed.
    """
    follower = Follower(score=score) if track else None

    def prepare(item: Frame | Sound) -> Sound | tuple[Frame, NDArray[np.uint8], PreparedPicture]:
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
            tracks = None
            if follower is not None:
                shown = np.flatnonzero(found.scores >= score)
                numbers = follower.follow(found, frame.time)
                tracks, found = [numbers[row] for row in shown], found[shown]
            yield SeenFrame(frame, pixels, found, tracks)
