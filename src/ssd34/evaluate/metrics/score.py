"""Detections to numbers: which metric, and how sure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import select_classes
from ssd34.errors import OptionError
from ssd34.evaluate.metrics.bootstrap import Uncertainty, estimate_uncertainty, match
from ssd34.evaluate.metrics.coco import (
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
        if self.resamples < 0:
            raise OptionError(f"expected resamples >= 0, got {self.resamples}")


@dataclass(frozen=True)
class Precision:
    """Of the detections that score so much or more, how many are right at IoU 0.5; those in crowds
    do not count."""

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
    """A data set as a metric sees it.

    Raises:
        OptionError: the metric is not defined on it.
    """
    return apply_zoo_2021(dataset) if metric == "zoo-2021" else dataset


def score(
    dataset: Dataset,
    results: Results,
    options: ScoreOptions,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Score:
    """Score detections; those in other pictures or of other classes than the data set's do not
    count. `progress` is called with the number of draws done.

    Raises:
        OptionError: the metric is not defined on the data set.
    """
    seen = apply_metric(options.metric, dataset)
    counted = results.within(seen)
    sure = None
    metrics = measure_coco(seen, counted)
    if options.resamples:
        sure = estimate_uncertainty(
            match(seen, counted), resamples=options.resamples, seed=options.seed, progress=progress
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
    with like: numbers under it are not COCO's.

    Raises:
        OptionError: it is not COCO's 80 classes.
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
