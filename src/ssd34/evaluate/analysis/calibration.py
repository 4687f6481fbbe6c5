"""Whether a score of 0.7 means right in 7 of 10 cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssd34.evaluate.analysis.matches import IOU

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
class Calibration:
    """Scores against the share of right detections, at IoU 0.5.

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


def calibration(evaluation: Any) -> Calibration:
    """Calibration of an evaluation (hotcoco's COCOeval after `evaluate`)."""
    told = evaluation.calibration(n_bins=BINS, iou_threshold=IOU)
    return Calibration(
        bins=tuple(
            Bin(
                low=float(one["bin_lower"]),
                high=float(one["bin_upper"]),
                count=int(one["count"]),
                score=float(one["avg_confidence"]),
                right=float(one["avg_accuracy"]),
            )
            for one in told["bins"]
            if one["count"]
        ),
        ece=float(told["ece"]),
        worst=float(told["mce"]),
        detections=int(told["num_detections"]),
    )
