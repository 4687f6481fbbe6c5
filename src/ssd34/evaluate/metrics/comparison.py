"""Two detectors on the same pictures: is one better, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import OptionError
from ssd34.evaluate.metrics.bootstrap import (
    CONFIDENCE,
    DatasetMatches,
    Interval,
    accumulate_draws,
    average_classes,
    measure_interval,
    summarise,
)


@dataclass(frozen=True)
class Difference:
    """A number of the first and of the second, 0..1, and the interval of second minus first; None:
    nothing was drawn, or the objects lie in too few pictures for one."""

    first: float
    second: float
    interval: Interval | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether there is an interval that leaves out 0."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "first": self.first,
            "second": self.second,
            "low": self.interval and self.interval.low,
            "high": self.interval and self.interval.high,
            "difference": self.difference,
            "clear": self.clear,
        }


@dataclass(frozen=True)
class Differences:
    """Differences of AP, AP50 and AP75, empty without objects, and of each class's AP.

    `second_better` is the share of the draws in which the second's AP is higher, ties counting
    half; None where AP has no interval, or differs in no draw.
    """

    summary: Mapping[str, Difference]
    class_ap: Mapping[str, Difference]
    second_better: float | None
    pictures: int
    resamples: int
    seed: int
    confidence: float = CONFIDENCE

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "pictures": self.pictures,
            "resamples": self.resamples,
            "seed": self.seed,
            "confidence": self.confidence,
            "second_better": self.second_better,
            "summary": {name: found.to_dict() for name, found in self.summary.items()},
            "class_ap": {name: found.to_dict() for name, found in self.class_ap.items()},
        }


def compare(
    first: DatasetMatches,
    second: DatasetMatches,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Differences:
    """Draw the same pictures for both, again and again.

    What is hard in a picture is hard for both: the interval of the difference is much smaller than
    those of the two APs. `progress` is called with the number of draws done, of twice `resamples`.

    Raises:
        OptionError: they are not of the same pictures and objects.
    """
    if first.pictures != second.pictures or list(first.classes) != list(second.classes):
        raise OptionError("expected two sets of detections scored on the same data; score both")
    ours = accumulate_draws(first, resamples=resamples, seed=seed, progress=progress)
    theirs = accumulate_draws(
        second, resamples=resamples, seed=seed, progress=lambda done: progress(resamples + done)
    )
    one, other = summarise(ours), summarise(theirs)
    summary = {name: _difference(one[name], other[name], sure=first.enough) for name in one}
    pairs = zip(average_classes(ours), average_classes(theirs), strict=True)
    by_class = {
        name: _difference(*pair, sure=found.enough)
        for (name, found), pair in zip(first.classes.items(), pairs, strict=True)
    }
    gained = other["AP"] - one["AP"]
    return Differences(
        summary={name: found for name, found in summary.items() if found},
        class_ap={name: found for name, found in by_class.items() if found},
        second_better=_share_above_zero(gained) if first.enough and gained.any() else None,
        pictures=first.pictures,
        resamples=resamples,
        seed=seed,
    )


def _difference(
    one: NDArray[np.float64], other: NDArray[np.float64], *, sure: bool
) -> Difference | None:
    """From (1 + draws,) values, the first being of the pictures as they are; `sure`: with an
    interval. None where nothing was measured."""
    change = other - one
    if np.isnan(change[0]):
        return None
    found = measure_interval(change[0], change[1:], within=(-1, 1)) if sure else None
    return Difference(float(one[0]), float(other[0]), found)


def _share_above_zero(change: NDArray[np.float64]) -> float | None:
    """Of (1 + draws,) differences whose mean is moved to the first; no difference counts half.
    None where nothing was measured or drawn."""
    drawn = change[1:][~np.isnan(change[1:])]
    if np.isnan(change[0]) or not drawn.size:
        return None
    moved = np.round(change[0] + drawn - drawn.mean(), 12)
    return float(np.mean((np.sign(moved) + 1) / 2))
