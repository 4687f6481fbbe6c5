"""What each score threshold would give, and the best one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd34.evaluate.analysis.matches import FOUND, NOT_COUNTED, Matches

_POINTS = 200
_WITHOUT_ANY_FOUND = 0.5


@dataclass(frozen=True)
class ScoreChoice:
    """Precision, recall and F1 of all boxes together, by score threshold, at IoU 0.5.

    Attributes:
        scores: thresholds, rising; at most 200 of them.
        precision: of the detections with at least the score.
        recall: of the objects.
        f1: harmonic mean of the two.
        best: the threshold of the highest F1 among all scores that occur; 0.5 if nothing was
            found.
        best_precision: there.
        best_recall: there.
        best_f1: there.
    """

    scores: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    best: float
    best_precision: float
    best_recall: float
    best_f1: float


def score_choice(matches: Matches) -> ScoreChoice:
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
    return ScoreChoice(
        scores=tuple(scores[shown].tolist()),
        precision=tuple(precision[shown].tolist()),
        recall=tuple(recall[shown].tolist()),
        f1=tuple(f1[shown].tolist()),
        best=float(scores[best]),
        best_precision=float(precision[best]),
        best_recall=float(recall[best]),
        best_f1=float(f1[best]),
    )
