"""Interleaved timing: models take turns in one run, so that what slows the machine slows all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import OptionError

SINGLE_STREAM, OFFLINE = "single-stream", "offline"
"""Scenarios: one picture after the other; all there are at once."""

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

    Raises:
        OptionError: no models, or fewer rounds than one.
    """
    if not models or rounds < 1 or warm_up < 0:
        raise OptionError(
            "expected at least one model, rounds >= 1 and warm_up >= 0, got "
            f"{len(models)} models, rounds {rounds} and warm_up {warm_up}"
        )
    taken: dict[str, list[float]] = {name: [] for name in models}
    for done in range(1, warm_up + rounds + 1):
        for name, run in models.items():
            started = clock()
            run()
            taken[name].append(1000 * (clock() - started))
        progress(done)
    return {name: np.array(times[warm_up:]) for name, times in taken.items()}


def summary(times: Sequence[float] | Milliseconds) -> Summary:
    """Median and percentiles of one model's times; OptionError where there are none."""
    values = np.sort(_checked(times))
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
    baseline: Sequence[float] | Milliseconds,
    model: Sequence[float] | Milliseconds,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> SpeedUp:
    """The ratio of two models' median times, above 1 where the model is faster.

    The interval is a percentile bootstrap over whole rounds: a round in which the machine was slow
    is drawn for both models or for neither. Equal times give equal intervals.

    Args:
        baseline, model: times of the same rounds of one `interleaved` run.
        confidence: of the interval.
        resamples: of the bootstrap.

    Raises:
        OptionError: no times, or different numbers of rounds.
    """
    before, after = _checked(baseline), _checked(model)
    if len(before) != len(after):
        raise OptionError(
            f"expected the times of the same rounds, got {len(before)} and {len(after)} of them"
        )
    if not 0 < confidence < 1 or resamples < 1:
        raise OptionError(
            f"expected 0 < confidence < 1 and resamples >= 1, got {confidence} and {resamples}"
        )
    drawn = np.random.default_rng(0).integers(0, len(before), (resamples, len(before)))
    ratios = np.median(before[drawn], axis=1) / np.median(after[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return SpeedUp(
        value=float(np.median(before) / np.median(after)),
        low=float(low),
        high=float(high),
        confidence=confidence,
    )


def _checked(times: Sequence[float] | Milliseconds) -> Milliseconds:
    values = np.asarray(times, np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise OptionError(
            f"expected at least one time, all above 0 ms, got {values.size} of shape {values.shape}"
        )
    return values
