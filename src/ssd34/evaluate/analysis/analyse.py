"""All of the analysis of one evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssd34.datasets.dataset import Dataset
from ssd34.errors import require
from ssd34.evaluate.analysis.counts import (
    Confusion,
    ErrorTypes,
    Part,
    count_by_class,
    count_by_size,
    count_confusion,
    count_error_types,
)
from ssd34.evaluate.analysis.curves import (
    Calibration,
    Curves,
    ScoreChoice,
    choose_score,
    measure_calibration,
    measure_curves,
)
from ssd34.evaluate.analysis.matches import NOT_COUNTED, read_matches
from ssd34.evaluate.analysis.pictures import Picture, rate_pictures
from ssd34.evaluate.metrics.coco import countable, ground_truth, names_of
from ssd34.evaluate.results import Results


@dataclass(frozen=True, eq=False)
class Analysis:
    """What lies behind AP.

    Attributes:
        curves: precision against recall.
        scores: what each score threshold gives; `scores.best` is that of the parts below.
        classes: AP of each class.
        sizes: AP of small, medium and large objects.
        confusion: which class is taken for which.
        errors: what kinds of errors cost how much.
        calibration: whether scores mean what they say.
        pictures: how each picture went.
    """

    curves: Curves
    scores: ScoreChoice
    classes: tuple[Part, ...]
    sizes: tuple[Part, ...]
    confusion: Confusion
    errors: ErrorTypes
    calibration: Calibration
    pictures: tuple[Picture, ...]


def analyse(dataset: Dataset, results: Results) -> Analysis:
    """Analyse detections against a data set's boxes.

    Args:
        dataset: the ground truth; pictures are not read.
        results: detections in its pictures and of its classes. May be empty.

    Raises:
        MissingExtraError: hotcoco is not installed.
    """
    hotcoco = require("hotcoco", extra="evaluate", why="COCO evaluation")
    dataset, results = countable(dataset, results)
    values = ground_truth(dataset)
    truth = hotcoco.COCO(values)

    def evaluation_of(truth: Any, chosen: Results) -> Any:
        evaluation = hotcoco.COCOeval(truth, truth.load_res(chosen.as_array()), "bbox")
        evaluation.evaluate()
        return evaluation

    evaluation = evaluation_of(truth, results)
    evaluation.accumulate()
    matched = read_matches(evaluation, results, boxes=len(values["annotations"]))
    scores = choose_score(matched)
    above = matched.scores >= scores.best
    counted = results.where(above & (matched.status != NOT_COUNTED))
    without_crowds = values | {
        "annotations": [one for one in values["annotations"] if not one["iscrowd"]]
    }
    return Analysis(
        curves=measure_curves(evaluation, dataset.labels),
        scores=scores,
        classes=count_by_class(evaluation, dataset),
        sizes=count_by_size(evaluation, dataset),
        confusion=count_confusion(
            evaluation_of(hotcoco.COCO(without_crowds), counted),
            names_of(evaluation, dataset.labels),
            score=scores.best,
        ),
        errors=count_error_types(
            evaluation, evaluation_of(truth, results.where(above)), score=scores.best
        ),
        calibration=measure_calibration(evaluation),
        pictures=rate_pictures(matched, dataset, results, score=scores.best),
    )
