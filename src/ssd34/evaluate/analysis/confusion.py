"""Which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.evaluate.analysis.matches import IOU

BACKGROUND = "background"
OTHERS = "other classes"


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of true class (rows) against detected class (columns).

    The last column holds objects that nothing overlaps enough, the last row detections that
    overlap no object enough. An object is matched with one detection whatever its class.

    Attributes:
        names: the classes, then `BACKGROUND`.
        counts: (K + 1, K + 1) int64.
        score: the detections' least score.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    score: float

    def shares(self) -> NDArray[np.float64]:
        """(K + 1, K + 1) float64: each row divided by its sum; empty rows stay 0."""
        total = self.counts.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = self.counts / np.maximum(total, 1)
        return shares

    def pairs(self, limit: int) -> tuple[tuple[str, str, int], ...]:
        """The most frequent confusions of two classes: (true, detected, count)."""
        inner = self.counts[:-1, :-1].copy()
        np.fill_diagonal(inner, 0)
        order = np.argsort(-inner, axis=None, kind="stable")[:limit]
        rows, columns = np.unravel_index(order, inner.shape)
        return tuple(
            (self.names[row], self.names[column], int(inner[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if inner[row, column]
        )

    def of_most_confused(self, limit: int) -> Confusion:
        """At most `limit` classes, those confused most often; the rest added up as `OTHERS`."""
        classes = len(self.names) - 1
        if classes <= limit:
            return self
        inner = self.counts[:-1, :-1]
        confused = inner.sum(axis=0) + inner.sum(axis=1) - 2 * inner.diagonal()
        objects = self.counts[:-1].sum(axis=1)
        kept = np.sort(np.lexsort((-objects, -confused))[:limit])
        group = np.full(classes + 1, limit)
        group[kept] = np.arange(limit)
        group[-1] = limit + 1
        counts = np.zeros((limit + 2, limit + 2), np.int64)
        np.add.at(counts, (group[:, None], group[None, :]), self.counts)
        names = (*(self.names[k] for k in kept.tolist()), OTHERS, BACKGROUND)
        return Confusion(names, counts, self.score)


def confusion(evaluation: Any, names: list[str], *, score: float) -> Confusion:
    """The confusion matrix at one score threshold.

    Args:
        evaluation: hotcoco's COCOeval of detections that are to be counted, all of them: the
            library takes detections in a crowd for false ones here.
        names: the classes in the library's order.
        score: the least score.
    """
    counted = evaluation.confusion_matrix(iou_thr=IOU, min_score=score)
    counts = np.asarray(counted["matrix"]).astype(np.int64)
    return Confusion((*names, BACKGROUND), counts, score)
