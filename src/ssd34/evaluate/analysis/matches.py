"""Which detection found which object, at IoU 0.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset
from ssd34.errors import require
from ssd34.evaluate.metrics.coco import build_ground_truth, make_countable
from ssd34.evaluate.results import Results

IOU = 0.5
"""The overlap from which on a box counts as found, wherever a report needs a single one."""

FOUND, FALSE_ALARM, NOT_COUNTED = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Matching:
    """COCO's greedy matching at `IOU`: best score first, each object found once.

    Leaving out all detections below a score changes nothing for those above it, so one matching
    serves every score threshold.

    Attributes:
        status: (D,) int8: `FOUND`, `FALSE_ALARM`, or `NOT_COUNTED` (in a crowd, or beyond the
            100 of a picture and class), in the order of the results.
        scores: (D,) float64.
        found_by: (G,) int64: the detection that found each box of the data set, -1: none.
        counted: (G,) bool: the boxes that are to be found; False for crowds.
    """

    status: NDArray[np.int8]
    scores: NDArray[np.float64]
    found_by: NDArray[np.int64]
    counted: NDArray[np.bool_]

    def found_at(self, score: float) -> NDArray[np.bool_]:
        """(G,) bool: boxes that a detection of at least this score has found."""
        found = self.found_by >= 0
        found[found] = self.scores[self.found_by[found]] >= score
        return found


def match_detections(dataset: Dataset, results: Results) -> tuple[Any, Matching]:
    """An evaluation (hotcoco's COCOeval after `evaluate`) of detections, and its matching.

    Args:
        dataset: pictures and boxes.
        results: detections in its pictures and of its classes.

    Raises:
        MissingExtraError: hotcoco is not installed.
    """
    hotcoco = require("hotcoco", extra="evaluate", why="COCO evaluation")
    dataset, results = make_countable(dataset, results)
    values = build_ground_truth(dataset)
    truth = hotcoco.COCO(values)
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results.as_array()), "bbox")
    evaluation.evaluate()
    return evaluation, read_matches(evaluation, results, boxes=len(values["annotations"]))


def read_matches(evaluation: Any, results: Results, *, boxes: int) -> Matching:
    """The matching that the library made.

    Args:
        evaluation: hotcoco's COCOeval after `evaluate`, its ground truth numbered from 1.
        results: what was evaluated.
        boxes: G, how many boxes the data set has, crowds too.
    """
    told = evaluation.image_diagnostics(iou_thr=IOU)
    status = np.full(len(results), NOT_COUNTED, np.int8)
    for number, word in told["dt_status"].items():
        status[number - 1] = FOUND if word == "tp" else FALSE_ALARM
    found_by = np.full(boxes, -1, np.int64)
    for number, detection in told["gt_match"].items():
        found_by[number - 1] = detection - 1
    counted = np.zeros(boxes, bool)
    counted[[number - 1 for number in told["gt_status"]]] = True
    return Matching(
        status=status,
        scores=results.scores,
        found_by=found_by,
        counted=counted,
    )
