"""What a data set holds, counted, and what is wrong in its pictures and boxes, and between sets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import area
from ssd34.core.spec import SPECS
from ssd34.datasets.dataset import Dataset, ImageStore, Kind, Problem, Sample
from ssd34.errors import ImageError
from ssd34.images.read import read_image
from ssd34.machine import overlapped

COCO_SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""COCO's names for areas in square pixels, with the lower limit of each."""

RELATIVE_SIZES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Limits for box sizes: the side of a square of that area, in sides of a square picture."""

SMALLEST_DEFAULT_BOX = min(spec.scales[0] / spec.image_size for spec in SPECS.values())
"""Side of the smallest default box of any named network, in sides of the picture."""


@dataclass(frozen=True)
class ClassCount:
    """Boxes of a class, pictures with one of them, and the class's number in the file."""

    name: str
    category_id: int
    boxes: int
    pictures: int


@dataclass(frozen=True)
class Spread:
    """Least, middle and largest of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[Any]) -> Spread:
        """Of numbers (N,); 0 where there is none."""
        values = values if len(values) else (0,)
        return cls(float(np.min(values)), float(np.median(values)), float(np.max(values)))


@dataclass(frozen=True)
class Statistics:
    """What a data set holds.

    Attributes:
        boxes: how many, all kinds together.
        crowd, difficult: boxes flagged so.
        empty: file names of the pictures without a box.
        classes: in the data set's order.
        coco_sizes: boxes that are small, medium and large to COCO, by the annotation's area.
        relative_sizes: (len(RELATIVE_SIZES) - 1,) boxes between two limits.
        below_default_boxes: boxes whose area is below that of the smallest default box.
        widths, heights: of pictures, pixels.
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
    side = np.concatenate([np.zeros(0), *sides])
    areas = np.concatenate([np.zeros(0), *(sample.areas for sample in samples)])
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


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong: in which data set, what, the picture that it is about, where there
    is one with usable annotations, and the data set and picture that it equals."""

    dataset: Dataset
    problem: Problem
    sample: Sample | None = None
    twin: tuple[Dataset, Sample] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "kind": str(self.problem.kind),
            "data": self.dataset.name,
            "where": self.problem.where,
            "image_id": self.sample and self.sample.image_id,
            "reason": self.problem.reason,
            "box": self.problem.box,
            "twin": self.twin and {"data": self.twin[0].name, "where": self.twin[1].file_name},
        }


@dataclass(frozen=True, eq=False)
class Check:
    """The statistics of some data sets, and what is wrong with them, set by set."""

    statistics: tuple[Statistics, ...]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Nothing is wrong. Empty pictures, unused classes, small boxes, assumptions are not."""
        return all(finding.problem.kind == Kind.ASSUMED for finding in self.findings)

    @property
    def counts(self) -> dict[Kind, int]:
        """How often what is wrong, in the order of `Kind`, without zeros."""
        counts = Counter(finding.problem.kind for finding in self.findings)
        return {kind: counts[kind] for kind in Kind if counts[kind]}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "clean": self.clean,
            "counts": {str(kind): count for kind, count in self.counts.items()},
            "relative_size_limits": RELATIVE_SIZES,
            "smallest_default_box": SMALLEST_DEFAULT_BOX,
            "data": [
                {**asdict(counted), "unused_classes": counted.unused} for counted in self.statistics
            ],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(
    datasets: Sequence[Dataset],
    *,
    threads: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Check:
    """Look for everything that is wrong in splits of one data set, or in any that are used
    together: a picture that is in two of them is found. Every picture is decoded, in threads;
    `progress` is called with the number of pictures done, all sets together."""
    findings: list[Finding] = []
    firsts: dict[bytes, _Place] = {}
    done = 0
    for number, dataset in enumerate(datasets):
        samples = {sample.file_name: sample for sample in dataset.samples}
        for problem in (*dataset.problems, *dataset.remarks):
            findings.append(Finding(dataset, problem, samples.get(problem.where)))
        with closing(contents(dataset, threads=threads)) as coming:
            for sample, content in zip(dataset.samples, coming, strict=True):
                problems = [*_of_picture(sample, content), *_of_boxes(sample)]
                findings += [Finding(dataset, problem, sample) for problem in problems]
                findings += _twins((number, dataset, sample), content, firsts)
                done += 1
                progress(done)
    return Check(tuple(count_statistics(dataset) for dataset in datasets), tuple(findings))


def _of_picture(sample: Sample, content: Content) -> Iterator[Problem]:
    annotated = (sample.width, sample.height)
    if content.error:
        yield Problem(sample.file_name, content.error, Kind.UNREADABLE)
    elif content.size is not None and content.size != annotated:
        width, height = content.size
        hint = ""
        if content.size == annotated[::-1]:
            hint = "; the sides are swapped: was the EXIF rotation applied?"
        reason = (
            f"the picture has {width} x {height} pixels, its annotations say "
            f"{sample.width} x {sample.height}{hint}"
        )
        yield Problem(sample.file_name, reason, Kind.WRONG_SIZE)


def _of_boxes(sample: Sample) -> Iterator[Problem]:
    seen = set()
    for label, values in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True):
        left, top, right, bottom = box = tuple(values)
        width, height = right - left, bottom - top
        if width < 1 or height < 1:
            reason = f"a box of {width:.2g} x {height:.2g} pixels at {left:.0f}, {top:.0f}"
            yield Problem(sample.file_name, reason, Kind.THIN, box)
        if (label, box) in seen:
            reason = f"the same box and class again at {left:.0f}, {top:.0f}"
            yield Problem(sample.file_name, reason, Kind.BOX_TWICE, box)
        seen.add((label, box))


_Place = tuple[int, Dataset, Sample]
"""A picture and the number of its data set."""


def _twins(place: _Place, content: Content, firsts: dict[bytes, _Place]) -> Iterator[Finding]:
    """What equals a picture that came before; `firsts` is added to."""
    keys = [key for key in (content.file, content.pixels) if key]
    twins = [(key, firsts[key]) for key in keys if key in firsts]
    number, dataset, sample = place
    if twins:
        key, (other_number, other, first) = twins[0]
        same_set = other_number == number
        what = "the same file as" if key == content.file else "the same pixels, in another file, as"
        if same_set and first.file_name == sample.file_name:
            reason = f"listed twice, as image id {first.image_id} and {sample.image_id}"
        else:
            reason = f"{what} {first.file_name}" + ("" if same_set else f" in {other.name}")
        problem = Problem(sample.file_name, reason, Kind.PICTURE_TWICE if same_set else Kind.LEAK)
        yield Finding(dataset, problem, sample, (other, first))
    for key in keys:
        firsts.setdefault(key, place)


_AHEAD = 4
"""Pictures a thread that may wait for their turn; more would only take memory."""


@dataclass(frozen=True, slots=True)
class Content:
    """One picture file, read; what there is not, is empty.

    Attributes:
        file: SHA-256 of the file.
        pixels: SHA-256 of the decoded picture and its shape.
        size: width and height.
        error: why it could not be read.
    """

    file: bytes = b""
    pixels: bytes = b""
    size: tuple[int, int] | None = None
    error: str = ""


def contents(dataset: Dataset, *, threads: int = 1) -> Generator[Content, None, None]:
    """Each picture of a data set, read in order; to be closed. Decoding leaves Python's lock, so
    that threads help; a few pictures each are in memory at once."""
    read = partial(_content, dataset.images)
    return overlapped(read, dataset.samples, ahead=_AHEAD * threads, threads=threads)


def _content(images: ImageStore, sample: Sample) -> Content:
    name = sample.file_name
    try:
        data = images.read_bytes(name)
    except ImageError as error:
        return Content(error=str(error).removeprefix(f"{name}: "))
    file = hashlib.sha256(data).digest()
    try:
        image = read_image(data)
    except ImageError as error:
        return Content(file, error=str(error).removeprefix("the picture: "))
    height, width = image.shape[:2]
    digest = hashlib.sha256(f"{width} x {height}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return Content(file, digest.digest(), (width, height))
