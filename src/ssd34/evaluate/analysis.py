"""All of the analysis of one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssd34.datasets.dataset import Dataset
from ssd34.evaluate import counts, curves, metrics
from ssd34.evaluate.curves import CalibrationCurve, Curves, ScoreChoice
from ssd34.evaluate.results import Results


@dataclass(frozen=True)
class RatedPicture:
    """One picture, the sample of that number, at one score threshold, IoU 0.5.

    Attributes:
        objects, found: how many are to be found, and were.
        false_alarms: detections that found nothing.
        boxes_found: for each box of the sample, whether it was found; None for crowds.
        detections: place in the results and whether it is right, best first; those in crowds
            are left out.
    """

    sample: int
    file_name: str
    objects: int
    found: int
    false_alarms: int
    boxes_found: tuple[bool | None, ...]
    detections: tuple[tuple[int, bool], ...]

    @property
    def missed(self) -> int:
        """Objects that were not found."""
        return self.objects - self.found

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing and nothing is said."""
        everything = 2 * self.found + self.missed + self.false_alarms
        return 2 * self.found / everything if everything else 1.0


def rate_pictures(
    matches: metrics.Matching, dataset: Dataset, results: Results, *, score: float
) -> tuple[RatedPicture, ...]:
    """Every picture of the data set, in its order."""
    detections: dict[int, list[int]] = {}
    counts_here = (matches.status != metrics.NOT_COUNTED) & (matches.scores >= score)
    chosen = np.flatnonzero(counts_here)
    for index in chosen[np.argsort(-matches.scores[chosen], kind="stable")].tolist():
        detections.setdefault(int(results.image_ids[index]), []).append(index)
    found_at = matches.found_at(score)
    told, start = [], 0
    for place, sample in enumerate(dataset.samples):
        own = slice(start, start + len(sample.boxes))
        start = own.stop
        right = [
            (k, bool(matches.status[k] == metrics.FOUND))
            for k in detections.get(sample.image_id, ())
        ]
        found, counted = found_at[own], matches.counted[own]
        told.append(
            RatedPicture(
                sample=place,
                file_name=sample.file_name,
                objects=int(counted.sum()),
                found=int((found & counted).sum()),
                false_alarms=sum(not one for _, one in right),
                boxes_found=tuple(
                    bool(one) if real else None for one, real in zip(found, counted, strict=True)
                ),
                detections=tuple(right),
            )
        )
    return tuple(told)


def rank_best(pictures: Sequence[RatedPicture]) -> list[RatedPicture]:
    """Pictures with objects, the best first: highest F1, then most objects."""
    return sorted(
        (one for one in pictures if one.found), key=lambda one: (-one.f1, -one.found, one.sample)
    )


def rank_worst(pictures: Sequence[RatedPicture]) -> list[RatedPicture]:
    """Pictures with errors, the worst first: lowest F1, then most errors."""
    return sorted(
        (one for one in pictures if one.missed or one.false_alarms),
        key=lambda one: (one.f1, -(one.missed + one.false_alarms), one.sample),
    )


@dataclass(frozen=True, eq=False)
class Analysis:
    """What lies behind AP; confusion, counts of errors and pictures are from `scores.best` on."""

    curves: Curves
    scores: ScoreChoice
    classes: tuple[counts.Part, ...]
    sizes: tuple[counts.Part, ...]
    confusion: counts.Confusion
    errors: counts.ErrorTypes
    calibration: CalibrationCurve
    pictures: tuple[RatedPicture, ...]


def analyse(dataset: Dataset, results: Results) -> Analysis:
    """Analyse detections in a data set's pictures and classes; MissingExtraError: no hotcoco."""
    evaluation, matched = metrics.match_detections(dataset, results)
    evaluation.accumulate()
    scores = curves.choose_score(matched)
    above = matched.scores >= scores.best
    counted = results.where(above & (matched.status != metrics.NOT_COUNTED))
    objects = tuple(sample.of(~sample.ignored) for sample in dataset.samples)
    without_crowds = replace(dataset, samples=objects)
    return Analysis(
        curves=curves.measure_curves(evaluation, dataset.labels),
        scores=scores,
        classes=counts.count_by_class(evaluation, dataset),
        sizes=counts.count_by_size(evaluation, dataset),
        confusion=counts.count_confusion(
            _evaluate(without_crowds, counted),
            metrics.list_class_names(dataset.labels),
            score=scores.best,
        ),
        errors=counts.count_error_types(
            evaluation, _evaluate(dataset, results.where(above)), score=scores.best
        ),
        calibration=curves.measure_calibration(evaluation),
        pictures=rate_pictures(matched, dataset, results, score=scores.best),
    )


def _evaluate(dataset: Dataset, results: Results) -> Any:
    """hotcoco's COCOeval after `evaluate`, where nobody asks which detection found what."""
    evaluation = metrics.open_evaluation(dataset, results)
    evaluation.evaluate()
    return evaluation
