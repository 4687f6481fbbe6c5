"""What a data set holds, counted: classes, box sizes, picture sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import area
from ssd34.core.spec import SPECS
from ssd34.datasets.dataset import Dataset

COCO_SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""COCO's names for areas in square pixels, with the lower limit of each."""

RELATIVE_SIZES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Limits of the histogram of box sizes: side of the square of the same area, in sides of a
square picture."""

SMALLEST_DEFAULT_BOX = min(spec.scales[0] / spec.image_size for spec in SPECS.values())
"""Side of the smallest default box of any named network, in sides of the picture."""


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        name: of the class.
        category_id: its number in the file.
        boxes: how many.
        pictures: with at least one.
    """

    name: str
    category_id: int
    boxes: int
    pictures: int


@dataclass(frozen=True)
class Spread:
    """Least, middle and largest of some numbers; all 0 where there are none."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[Any]) -> Spread:
        """Of numbers (N,)."""
        if len(values) == 0:
            return cls(0, 0, 0)
        return cls(float(np.min(values)), float(np.median(values)), float(np.max(values)))


@dataclass(frozen=True)
class Statistics:
    """What a data set holds.

    Attributes:
        name: of the data set.
        pictures: how many.
        boxes: in them, all kinds together.
        crowd: boxes around groups.
        difficult: boxes flagged so.
        empty: file names of the pictures without a box.
        classes: in the data set's order.
        coco_sizes: boxes that are small, medium and large to COCO, by the annotation's area.
        relative_sizes: (len(RELATIVE_SIZES) - 1,) boxes between two limits.
        below_default_boxes: boxes whose area is below that of the smallest default box.
        widths: of pictures, pixels.
        heights: of pictures, pixels.
        boxes_a_picture: empty ones included.
    """

    name: str
    pictures: int
    boxes: int
    crowd: int
    difficult: int
    empty: tuple[str, ...]
    classes: tuple[ClassCount, ...]
    coco_sizes: dict[str, int]
    relative_sizes: tuple[int, ...]
    below_default_boxes: int
    widths: Spread
    heights: Spread
    boxes_a_picture: Spread

    @property
    def unused(self) -> tuple[str, ...]:
        """Classes without a box."""
        return tuple(count.name for count in self.classes if not count.boxes)


def count_statistics(dataset: Dataset) -> Statistics:
    """Count what a data set holds; pictures are not read."""
    samples = dataset.samples
    boxes = np.zeros(len(dataset.labels) + 1, np.int64)
    pictures = np.zeros_like(boxes)
    sides = []
    for sample in samples:
        np.add.at(boxes, sample.labels, 1)
        pictures[np.unique(sample.labels)] += 1
        sides.append(np.sqrt(area(sample.boxes) / (sample.width * sample.height)))
    side = np.concatenate(sides)
    areas = np.concatenate([sample.areas for sample in samples])
    coco = np.histogram(np.maximum(areas, 0), [*COCO_SIZES.values(), np.inf])[0]
    return Statistics(
        name=dataset.name,
        pictures=len(samples),
        boxes=len(areas),
        crowd=sum(int(sample.crowd.sum()) for sample in samples),
        difficult=sum(int(sample.difficult.sum()) for sample in samples),
        empty=tuple(sample.file_name for sample in samples if not len(sample.boxes)),
        classes=tuple(
            ClassCount(name, dataset.labels.category_id(k), int(boxes[k]), int(pictures[k]))
            for k, name in enumerate(dataset.labels.names, start=1)
        ),
        coco_sizes=dict(zip(COCO_SIZES, coco.tolist(), strict=True)),
        relative_sizes=tuple(np.histogram(np.minimum(side, 1), RELATIVE_SIZES)[0].tolist()),
        below_default_boxes=int((side < SMALLEST_DEFAULT_BOX).sum()),
        widths=Spread.of([sample.width for sample in samples]),
        heights=Spread.of([sample.height for sample in samples]),
        boxes_a_picture=Spread.of([len(sample.boxes) for sample in samples]),
    )
