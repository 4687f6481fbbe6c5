"""What the detections of one evaluation come to: AP by class and by size, which class is taken for
which, and what kinds of errors cost how much AP.

Source of the kinds of errors: TIDE (Bolya et al., ECCV 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.metrics import IOU, average_measured, list_class_names

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Part:
    """A class or a range of sizes: how many objects are to be found, without crowds, AP over IoU
    0.50:0.95, AP at IoU 0.50, and AR100, the largest recall at 100 detections, mean over the ten
    IoU; None without objects."""

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    recall: float | None


def count_by_class(evaluation: Any, dataset: Dataset) -> tuple[Part, ...]:
    """One part a class of the data set evaluated (COCOeval after `accumulate`), in label order."""
    columns = list_class_names(dataset.labels)
    objects = _objects(dataset, low=0, high=np.inf)
    return tuple(
        _part(evaluation, name, int(objects[label]), classes=[columns.index(name)], area=0)
        for label, name in enumerate(dataset.labels.names)
    )


def count_by_size(evaluation: Any, dataset: Dataset) -> tuple[Part, ...]:
    """Small, medium and large: areas up to 32 x 32, up to 96 x 96, and above."""
    classes = list(range(len(evaluation.params.cat_ids)))
    parts = []
    ranges = evaluation.params.area_rng[1:]  # the first is that of all sizes
    for area, (name, (low, high)) in enumerate(zip(SIZES, ranges, strict=True), start=1):
        objects = int(_objects(dataset, low=low, high=high).sum())
        parts.append(_part(evaluation, name, objects, classes=classes, area=area))
    return tuple(parts)


def _part(evaluation: Any, name: str, objects: int, *, classes: list[int], area: int) -> Part:
    precision = np.asarray(evaluation.eval["precision"])[:, :, classes, area, -1]
    recall = np.asarray(evaluation.eval["recall"])[:, classes, area, -1]
    return Part(name, objects, *map(average_measured, (precision, precision[0], recall)))


def _objects(dataset: Dataset, *, low: float, high: float) -> NDArray[np.int64]:
    """(classes,) int64: objects of each class with an area in a range, its ends included."""
    counts = np.zeros(len(dataset.labels), np.int64)
    for sample in dataset.samples:
        counted = ~sample.ignored & (sample.areas >= low) & (sample.areas <= high)
        np.add.at(counts, sample.labels[counted] - 1, 1)
    return counts


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
        return np.asarray(self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1))

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


def count_confusion(evaluation: Any, names: list[str], *, score: float) -> Confusion:
    """The confusion matrix from one score on, with the classes in the library's order, of hotcoco's
    COCOeval of detections that are to be counted, all of them: the library takes those in a crowd
    for false ones here."""
    counted = evaluation.confusion_matrix(iou_thr=IOU, min_score=score)
    counts = np.asarray(counted["matrix"]).astype(np.int64)
    return Confusion((*names, BACKGROUND), counts, score)


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
    """One kind of error, how much AP50 would rise if only these errors were put right, and how many
    there are at the chosen score."""

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


def count_error_types(evaluation: Any, chosen: Any, *, score: float) -> ErrorTypes:
    """The six kinds of errors: what AP loses by them in hotcoco's COCOeval of all detections, and
    how many there are in that of the `chosen` ones of at least `score`, both after `evaluate`."""
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
