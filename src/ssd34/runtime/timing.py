"""Interleaved timing: models take turns in one run, so that what slows the machine slows all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

SINGLE_STREAM, OFFLINE = "single-stream", "offline"
"""Scenarios: one picture after the other; all there are at once."""

CONFIDENCE, RESAMPLES = 0.95, 2000
"""Of the interval of a speed-up, and of its bootstrap."""

Milliseconds = NDArray[np.float64]
"""(rounds,) float64: how long one model took in each round."""


@dataclass(frozen=True)
class Summary:
    """One model's times, in milliseconds. No percentile is interpolated: with fewer than a hundred
    rounds p99 is the slowest."""

    rounds: int
    median: float
    p90: float
    p99: float
    fastest: float
    slowest: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form, to the microsecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster, with the interval in which that lies at the given confidence."""

    value: float
    low: float
    high: float
    confidence: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved(
    models: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 3,
    progress: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Milliseconds]:
    """Time models in turns: A B C, A B C, ... Round k of one belongs to round k of the others.

    Args:
        models: what runs each model once, by name; the order is that of the turns.
        rounds: how often each model is timed.
        warm_up: rounds before these that are not timed.
        progress: called after each round with the number of rounds done, warm-up included.
        clock: seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    for done in range(1, warm_up + rounds + 1):
        for name, run in models.items():
            started = clock()
            run()
            taken[name].append(1000 * (clock() - started))
        progress(done)
    return {name: np.array(times[warm_up:]) for name, times in taken.items()}


def summary(times: Sequence[float] | Milliseconds) -> Summary:
    """Median and percentiles of one model's times, at least one."""
    values = np.sort(np.asarray(times, np.float64))
    p90, p99 = np.quantile(values, [0.9, 0.99], method="inverted_cdf")
    return Summary(
        rounds=len(values),
        median=float(np.median(values)),
        p90=float(p90),
        p99=float(p99),
        fastest=float(values[0]),
        slowest=float(values[-1]),
    )


def speed_up(
    baseline: Sequence[float] | Milliseconds, model: Sequence[float] | Milliseconds
) -> SpeedUp:
    """The ratio of two models' median times, above 1 where the model is faster, of the same rounds
    of one `interleaved` run.

    The interval is a percentile bootstrap over whole rounds: a round in which the machine was slow
    is drawn for both models or for neither. Equal times give equal intervals.
    """
    before, after = np.asarray(baseline, np.float64), np.asarray(model, np.float64)
    assert before.shape == after.shape and len(before)
    drawn = np.random.default_rng(0).integers(0, len(before), (RESAMPLES, len(before)))
    ratios = np.median(before[drawn], axis=1) / np.median(after[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return SpeedUp(
        value=float(np.median(before) / np.median(after)),
        low=float(low),
        high=float(high),
        confidence=CONFIDENCE,
    )
