"""Detections to numbers: which metric, how sure, and whether of two detectors one is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import select_classes
from ssd34.errors import OptionError
from ssd34.evaluate import bootstrap
from ssd34.evaluate.bootstrap import DatasetMatches, Interval, Uncertainty
from ssd34.evaluate.metrics import (
    FOUND,
    NOT_COUNTED,
    CocoMetrics,
    match_detections,
    measure_coco,
)
from ssd34.evaluate.results import Results

METRICS = ("coco", "zoo-2021")

PRECISION_AT = (0.3, 0.5, 0.7)
"""The scores from which on precision is told."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How detections are scored.

    Attributes:
        metric: one of `METRICS`: ``coco``, or ``zoo-2021`` with the published numbers' defects.
        resamples: draws for the intervals; 0: no intervals.
        seed: of the draws.
    """

    metric: str = "coco"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise OptionError(
                f"unknown metric {self.metric!r}; expected one of {', '.join(METRICS)}"
            )
        for name in ("resamples", "seed"):
            if getattr(self, name) < 0:
                raise OptionError(f"expected {name} >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Precision:
    """Of detections from a score on, how many are right at IoU 0.5, without those in crowds."""

    score: float
    right: int
    detections: int

    @property
    def precision(self) -> float | None:
        """The share that is right; None where there is no detection."""
        return self.right / self.detections if self.detections else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"precision": self.precision, "right": self.right, "detections": self.detections}


@dataclass(frozen=True)
class Score:
    """The metric's numbers, precision at some scores, and intervals, if they were asked for."""

    metrics: CocoMetrics
    metric: str
    uncertainty: Uncertainty | None
    precisions: tuple[Precision, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "metric": self.metric,
            **self.metrics.to_dict(),
            "precision_at": {str(one.score): one.to_dict() for one in self.precisions},
            "intervals": self.uncertainty and self.uncertainty.to_dict(),
        }


def apply_metric(metric: str, dataset: Dataset) -> Dataset:
    """A data set as a metric sees it; OptionError where that is not defined on it."""
    return apply_zoo_2021(dataset) if metric == "zoo-2021" else dataset


def score(
    dataset: Dataset,
    results: Results,
    options: ScoreOptions,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Score:
    """Score detections; those in other pictures or of other classes than the data set's do not
    count. `progress` is called with the number of draws done. OptionError as `apply_metric`."""
    seen = apply_metric(options.metric, dataset)
    counted = results.within(seen)
    sure = None
    metrics = measure_coco(seen, counted)
    if options.resamples:
        sure = bootstrap.estimate_uncertainty(
            bootstrap.match(seen, counted),
            resamples=options.resamples,
            seed=options.seed,
            progress=progress,
        )
    return Score(metrics, options.metric, sure, measure_precisions(seen, counted))


LOST_CLASSES = (
    "stop sign", "umbrella", "suitcase", "frisbee", "spoon", "remote", "cell phone", "microwave",
    "toaster",
)  # fmt: skip


def apply_zoo_2021(dataset: Dataset) -> Dataset:
    """A data set as the metric behind the ONNX Model Zoo's published numbers saw it.

    It compared labels that count 1 to 80 with COCO's category ids, which have gaps, and so lost
    nine classes; and it counted every crowd region as an ordinary object. Only for comparing like
    with like: numbers under it are not COCO's. OptionError where it is not COCO's 80 classes.
    """
    missing = [name for name in LOST_CLASSES if name not in dataset.labels.names]
    if missing:
        raise OptionError(
            f"--metric zoo-2021 is defined on COCO's 80 classes; {dataset.name} has no "
            f"{missing[0]!r}; leave the option out"
        )
    kept = select_classes(dataset, [n for n in dataset.labels.names if n not in LOST_CLASSES])
    samples = tuple(
        dataclasses.replace(sample, crowd=np.zeros_like(sample.crowd)) for sample in kept.samples
    )
    return dataclasses.replace(kept, samples=samples)


def measure_precisions(dataset: Dataset, results: Results) -> tuple[Precision, ...]:
    """Precision from each score of `PRECISION_AT` on, all classes together, of detections in the
    data set's pictures and of its classes."""
    # Those below the lowest change nothing for those above it.
    _, found = match_detections(dataset, results.where(results.scores >= PRECISION_AT[0]))
    told = []
    for threshold in PRECISION_AT:
        counts = (found.status != NOT_COUNTED) & (found.scores >= threshold)
        right = counts & (found.status == FOUND)
        told.append(Precision(threshold, int(right.sum()), int(counts.sum())))
    return tuple(told)


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


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Differences of AP, AP50 and AP75, empty without objects, and of each class's AP.

    `second_better` is the share of the draws in which the second's AP is higher, ties counting
    half; None where AP has no interval, or differs in no draw.
    """

    pictures: int
    resamples: int
    seed: int
    confidence: float = bootstrap.CONFIDENCE
    second_better: float | None
    summary: Mapping[str, Difference]
    class_ap: Mapping[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        summary = {name: found.to_dict() for name, found in self.summary.items()}
        class_ap = {name: found.to_dict() for name, found in self.class_ap.items()}
        return {**vars(self), "summary": summary, "class_ap": class_ap}


def compare(
    first: DatasetMatches,
    second: DatasetMatches,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Differences:
    """Draw the same pictures for both, again and again; OptionError where they are not of the same
    pictures and objects.

    What is hard in a picture is hard for both: the interval of the difference is much smaller than
    those of the two APs. `progress` is called with the number of draws done, of twice `resamples`.
    """
    if first.pictures != second.pictures or list(first.classes) != list(second.classes):
        raise OptionError("expected two sets of detections scored on the same data; score both")
    ours = bootstrap.accumulate_draws(first, resamples=resamples, seed=seed, progress=progress)
    theirs = bootstrap.accumulate_draws(
        second, resamples=resamples, seed=seed, progress=lambda done: progress(resamples + done)
    )
    one, other = bootstrap.summarise(ours), bootstrap.summarise(theirs)
    summary = {name: _difference(one[name], other[name], sure=first.enough) for name in one}
    pairs = zip(bootstrap.average_classes(ours), bootstrap.average_classes(theirs), strict=True)
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
    found = bootstrap.measure_interval(change[0], change[1:], within=(-1, 1)) if sure else None
    return Difference(float(one[0]), float(other[0]), found)


def _share_above_zero(change: NDArray[np.float64]) -> float | None:
    """Of (1 + draws,) differences whose mean is moved to the first; no difference counts half.
    None where nothing was measured or drawn."""
    drawn = change[1:][~np.isnan(change[1:])]
    if np.isnan(change[0]) or not drawn.size:
        return None
    moved = np.round(change[0] + drawn - drawn.mean(), 12)
    return float(np.mean((np.sign(moved) + 1) / 2))
