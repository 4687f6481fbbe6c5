"""What kinds of errors cost how much AP, as TIDE divides them (Bolya et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssd34.evaluate.analysis.matches import IOU

BACKGROUND_IOU = 0.1

KINDS = (
    ("Loc", "localisation", "right class, but the box overlaps too little"),
    ("Cls", "class", "right box, wrong class"),
    ("Both", "both", "wrong class, and the box overlaps too little"),
    ("Dupe", "duplicate", "the object was found already"),
    ("Bkg", "background", "nothing is there"),
    ("Miss", "missed", "no detection comes near the object"),
)


@dataclass(frozen=True)
class ErrorType:
    """One kind of error.

    Attributes:
        name: of the kind.
        meaning: in words.
        ap50_lost: how much AP50 would rise if only these errors were put right.
        count: how many there are at the chosen score.
    """

    name: str
    meaning: str
    ap50_lost: float
    count: int


@dataclass(frozen=True)
class ErrorTypes:
    """AP50, all kinds of errors, and the score from which on they were counted."""

    ap50: float
    kinds: tuple[ErrorType, ...]
    score: float


def error_types(evaluation: Any, chosen: Any, *, score: float) -> ErrorTypes:
    """The six kinds of errors.

    Args:
        evaluation: hotcoco's COCOeval of all detections after `evaluate`: what AP loses.
        chosen: the same with the detections of at least `score`: what is counted.
        score: the threshold.
    """
    told = evaluation.tide_errors(pos_thr=IOU, bg_thr=BACKGROUND_IOU)
    counts = chosen.tide_errors(pos_thr=IOU, bg_thr=BACKGROUND_IOU)["counts"]
    return ErrorTypes(
        # The library marks what it could not measure with -1.
        ap50=max(0.0, float(told["ap_base"])),
        kinds=tuple(
            ErrorType(name, meaning, max(0.0, float(told["delta_ap"][key])), int(counts[key]))
            for key, name, meaning in KINDS
        ),
        score=score,
    )
