"""Precision against recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.evaluate.coco_metrics import names_of


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


def curves(evaluation: Any, labels: LabelSet) -> Curves:
    """The curves of an evaluation.

    Args:
        evaluation: hotcoco's COCOeval after `accumulate`.
        labels: the data set's classes.
    """
    # (IoU thresholds, recalls, classes); -1 for classes without objects.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    measured = (precision > -1).all(axis=(0, 1))
    names = names_of(evaluation, labels)
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
