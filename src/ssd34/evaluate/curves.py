"""Curves over scores: precision against recall, what each score threshold gives, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.evaluate.metrics import FOUND, IOU, NOT_COUNTED, Matching, list_class_names


@dataclass(frozen=True)
class Curve:
    """Interpolated precision at each recall of `Curves.recall`, and its mean."""

    name: str
    precision: tuple[float, ...]
    ap: float


@dataclass(frozen=True)
class Curves:
    """Precision-recall curves as COCO's metric has them: 101 recalls, all sizes.

    Attributes:
        recall: 0 to 1.
        by_iou: the mean over classes, one curve an IoU threshold; none without objects.
        by_class: at IoU 0.5, one curve a class that has objects, in label order.
    """

    recall: tuple[float, ...]
    by_iou: tuple[Curve, ...]
    by_class: tuple[Curve, ...]


def measure_curves(evaluation: Any, labels: LabelSet) -> Curves:
    """The curves of an evaluation (hotcoco's COCOeval after `accumulate`)."""
    # (IoU thresholds, recalls, classes); -1 for classes without objects.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    measured = (precision > -1).all(axis=(0, 1))
    names = list_class_names(labels)
    return Curves(
        recall=tuple(map(float, evaluation.params.rec_thrs)),
        by_iou=tuple(
            _curve(f"{threshold:.2f}", precision[k][:, measured].mean(axis=1))
            for k, threshold in enumerate(evaluation.params.iou_thrs)
            if measured.any()
        ),
        by_class=tuple(
            _curve(names[k], precision[0, :, k]) for k in np.flatnonzero(measured).tolist()
        ),
    )


def _curve(name: str, precision: NDArray[np.float64]) -> Curve:
    return Curve(name, tuple(map(float, precision)), float(precision.mean()))


_POINTS = 200
_WITHOUT_ANY_FOUND = 0.5


@dataclass(frozen=True)
class ScoreChoice:
    """Precision, recall and F1 of all boxes together, by score threshold, at IoU 0.5.

    Attributes:
        scores: thresholds, rising; at most 200 of them.
        best: the threshold of the highest F1 among all scores that occur; 0.5 if nothing was
            found.
    """

    scores: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    best: float
    best_precision: float
    best_recall: float
    best_f1: float


def choose_score(matches: Matching) -> ScoreChoice:
    """Precision, recall and F1 by score threshold."""
    counted = matches.status != NOT_COUNTED
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores = matches.scores[counted][order]
    found = np.cumsum(matches.status[counted][order] == FOUND)
    # A threshold takes all detections of equal score or none of them.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else order
    scores, found, taken = scores[last], found[last], last + 1
    objects = int(matches.counted.sum())
    precision = found / np.maximum(taken, 1)
    recall = found / max(objects, 1)
    f1: NDArray[np.float64] = 2 * found / np.maximum(taken + objects, 1)
    if not len(f1) or f1.max() == 0:
        return ScoreChoice((), (), (), (), _WITHOUT_ANY_FOUND, 0.0, 0.0, 0.0)
    best = int(f1.argmax())
    # Evenly spaced thresholds, each with the last detection that it lets through.
    grid = np.linspace(scores[-1], scores[0], _POINTS)
    shown = np.unique(np.searchsorted(-scores, -grid, side="right") - 1)[::-1]
    columns = (scores, precision, recall, f1)
    curves: list[Any] = [tuple(values[shown].tolist()) for values in columns]
    return ScoreChoice(*curves, *(float(values[best]) for values in columns))


BINS = 10


@dataclass(frozen=True)
class Bin:
    """Detections with scores in a range: their mean score and the share that is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True)
class CalibrationCurve:
    """Whether a score of 0.7 means right in 7 of 10 cases, at IoU 0.5.

    Attributes:
        bins: the ranges that have detections, rising.
        ece: expected calibration error: mean distance of score and share, by detections.
        worst: the largest distance of a range.
        detections: how many; those in crowds do not count.
    """

    bins: tuple[Bin, ...]
    ece: float
    worst: float
    detections: int


def measure_calibration(evaluation: Any) -> CalibrationCurve:
    """Calibration of an evaluation (hotcoco's COCOeval after `evaluate`)."""
    told = evaluation.calibration(n_bins=BINS, iou_threshold=IOU)
    keys = ("bin_lower", "bin_upper", "count", "avg_confidence", "avg_accuracy")
    return CalibrationCurve(
        bins=tuple(Bin(*(one[key] for key in keys)) for one in told["bins"] if one["count"]),
        ece=float(told["ece"]),
        worst=float(told["mce"]),
        detections=int(told["num_detections"]),
    )
