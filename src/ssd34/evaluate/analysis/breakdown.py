"""AP by class and by object size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.data.dataset import Dataset
from ssd34.evaluate.coco_metrics import mean_measured, names_of

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Part:
    """A class or a range of sizes.

    Attributes:
        name: the class or size.
        objects: how many are to be found; crowds do not count.
        ap: over IoU 0.50:0.95; None without objects.
        ap50: at IoU 0.50.
        recall: AR100: the largest recall at 100 detections, mean over the ten IoU.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    recall: float | None


def by_class(evaluation: Any, dataset: Dataset) -> tuple[Part, ...]:
    """One part a class of the data set, in label order.

    Args:
        evaluation: hotcoco's COCOeval after `accumulate`.
        dataset: what was evaluated.
    """
    column = {name: k for k, name in enumerate(names_of(evaluation, dataset.labels))}
    objects = _objects(dataset, low=0, high=np.inf)
    return tuple(
        _part(evaluation, name, int(objects[label]), classes=[column[name]], area=0)
        for label, name in enumerate(dataset.labels.names)
        if name in column
    )


def by_size(evaluation: Any, dataset: Dataset) -> tuple[Part, ...]:
    """Small, medium and large: areas up to 32 x 32, up to 96 x 96, and above."""
    classes = list(range(len(evaluation.params.cat_ids)))
    parts = []
    for area, (name, (low, high)) in enumerate(
        zip(("all", *SIZES), evaluation.params.area_rng, strict=True)
    ):
        if name != "all":
            objects = int(_objects(dataset, low=low, high=high).sum())
            parts.append(_part(evaluation, name, objects, classes=classes, area=area))
    return tuple(parts)


def _part(evaluation: Any, name: str, objects: int, *, classes: list[int], area: int) -> Part:
    precision = np.asarray(evaluation.eval["precision"])[:, :, classes, area, -1]
    recall = np.asarray(evaluation.eval["recall"])[:, classes, area, -1]
    return Part(
        name, objects, mean_measured(precision), mean_measured(precision[0]), mean_measured(recall)
    )


def _objects(dataset: Dataset, *, low: float, high: float) -> NDArray[np.int64]:
    """(classes,) int64: objects of each class with an area in a range, its ends included."""
    counts = np.zeros(len(dataset.labels), np.int64)
    for sample in dataset.samples:
        counted = ~sample.ignored & (sample.areas >= low) & (sample.areas <= high)
        np.add.at(counts, sample.labels[counted] - 1, 1)
    return counts
