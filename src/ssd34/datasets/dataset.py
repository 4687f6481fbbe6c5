"""Dataset: pictures with their boxes, one type whatever the file format was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.images.read import MAX_PIXELS, read_image
from ssd34.images.reduced import read_reduced, read_square


class Kind(StrEnum):
    """What can be wrong with a picture or an annotation."""

    MISSING = "missing picture"
    UNREADABLE = "unreadable picture"
    WRONG_SIZE = "wrong size"
    BROKEN_ENTRY = "broken entry"
    ORPHAN = "annotation without picture"
    NOT_FINITE = "box not finite"
    NO_AREA = "box without area"
    OUTSIDE = "box outside"
    OVER_EDGE = "box over the edge"
    VALUE = "unusable value"
    THIN = "box under one pixel"
    UNKNOWN_CLASS = "unknown class"
    IMAGE_ID_TWICE = "image id twice"
    ANNOTATION_ID_TWICE = "annotation id twice"
    BOX_TWICE = "box twice"
    PICTURE_TWICE = "picture twice"
    LEAK = "picture in two sets"
    ALL_IGNORED = "every box ignored"
    OTHER = "other"
    ASSUMED = "assumed"


NO_PICTURES = "it lists none; check the path and the split, expected one picture or more"
"""What to do where a data set has neither pictures nor problems."""


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: the picture's or annotation's file name, what it is, the same
    in a word, to count by, and the box in question as it was given, xyxy in pixels, finite."""

    where: str
    reason: str
    kind: Kind = Kind.OTHER
    box: tuple[float, float, float, float] | None = None

    @classmethod
    def of(cls, sample: Sample, error: ImageError) -> Problem:
        """A picture that could not be read."""
        reason = str(error).removeprefix(f"{sample.file_name}: ")
        return cls(sample.file_name, reason, Kind.UNREADABLE)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture's annotations. Boxes are in pixels of the stored picture.

    Attributes:
        file_name: the picture, relative to the data set's image folder.
        image_id: its number in the annotation file.
        width, height: pixels.
        boxes: (N, 4) float32 xyxy, within the picture, of positive size.
        labels: (N,) int64, labels of the data set's own LabelSet.
        areas: (N,) float64, the annotation's ``area``, square pixels.
        crowd: (N,) bool, COCO's ``iscrowd``: the box covers a group.
        difficult: (N,) bool, VOC's ``difficult``.
        scores: (N,) float32, 0..1, how sure who found the boxes was; None: nobody says.
    """

    file_name: str
    image_id: int
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    scores: NDArray[np.float32] | None = None

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """(N,) bool: boxes that training counts neither as object nor as background."""
        return self.crowd | self.difficult

    def of(self, rows: NDArray[np.bool_ | np.int64]) -> Sample:
        """The same picture with only some boxes: a mask (N,) or indices."""
        kept: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[rows]
            for name in ("boxes", "labels", "areas", "crowd", "difficult", "scores")
        }
        return replace(self, **kept)


def check_size(sample: Sample, *, width: int, height: int) -> None:
    """Refuse with ImageError a picture of another size than its annotations say."""
    if (width, height) != (sample.width, sample.height):
        raise ImageError(
            f"{sample.file_name}: the annotations say {sample.width} x {sample.height} pixels, "
            f"the picture has {width} x {height}; correct one of them"
        )


class ImageStore(Protocol):
    """Where the picture files of a data set are."""

    def read_bytes(self, file_name: str) -> bytes:
        """The file's bytes; ImageError if it is missing or too large."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with annotations.

    Attributes:
        name: for messages, usually the file's name.
        labels: exactly the classes that this data set labels. Objects of other classes may be
            visible without a box.
        samples: the pictures, in the file's order; some may have no boxes.
        images: where the picture files are.
        problems: what was wrong and left out while reading.
        remarks: what was wrong and kept, such as a box that was cut at the edge.
    """

    name: str
    labels: LabelSet
    samples: tuple[Sample, ...]
    images: ImageStore
    problems: tuple[Problem, ...] = field(default=())
    remarks: tuple[Problem, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What was assumed while reading, and what makes the whole set of no use, in sentences."""
        told = (Kind.ASSUMED, Kind.ALL_IGNORED)
        return tuple(remark.reason for remark in self.remarks if remark.kind in told)

    def read(self, sample: Sample, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """A sample's picture, (H, W, 3) uint8 RGB; ImageError: missing, unreadable, or of another
        size than its annotations say."""
        with self._checked(sample) as data:
            image = read_image(data, max_pixels=max_pixels)
        check_size(sample, width=image.shape[1], height=image.shape[0])
        return image

    def read_square(
        self, sample: Sample, side: int, *, max_pixels: int = MAX_PIXELS
    ) -> Image.Image:
        """The picture of a sample as `ssd34.images.reduced.read_square` gives it: a Pillow image of
        mode RGB, side x side pixels. ImageError as `read`."""
        with self._checked(sample) as data:
            square = read_square(data, side, max_pixels=max_pixels)
        check_size(sample, width=square.width, height=square.height)
        return square.picture

    def read_reduced(
        self, sample: Sample, factor: int, *, max_pixels: int = MAX_PIXELS
    ) -> Image.Image:
        """The picture of a sample at 1/factor of its size, as `ssd34.images.reduced.read_reduced`
        gives it: a Pillow image of mode RGB. ImageError as `read`."""
        with self._checked(sample) as data:
            reduced = read_reduced(data, factor, max_pixels=max_pixels)
        check_size(sample, width=reduced.width, height=reduced.height)
        return reduced.picture

    @contextmanager
    def _checked(self, sample: Sample) -> Iterator[bytes]:
        """The bytes of a picture; errors in the block name its file."""
        data = self.images.read_bytes(sample.file_name)
        try:
            yield data
        except ImageError as error:
            reason = str(error).removeprefix("the picture: ")
            raise ImageError(f"{sample.file_name}: {reason}") from None

    def labels_in(self, target: LabelSet) -> NDArray[np.int64]:
        """This data set's labels as labels of another set, matched by name: (classes + 1,) int64;
        entry 0 is background, 0. DatasetError where the other set lacks a class."""
        try:
            return np.array([0, *(target.label(name) for name in self.labels.names)], np.int64)
        except OptionError as error:
            raise DatasetError(
                f"{self.name}: {error} (rename the class, VOC's names with --coco-names, or train "
                "with --set labels=data)"
            ) from None


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, hexadecimal, of a data set's classes, boxes, and pictures in order, by name, id and
    size, not by content, so that a large set takes a moment."""
    digest = hashlib.sha256(b"ssd34-dataset-1")
    classes = [dataset.labels.names, [int(c) for c in dataset.labels.category_ids]]
    digest.update(json.dumps(classes).encode())
    for sample in dataset.samples:
        head = [sample.file_name, int(sample.image_id), int(sample.width), int(sample.height)]
        digest.update(json.dumps([*head, len(sample.boxes)]).encode())
        for array, kind in (
            (sample.boxes, np.float32),
            (sample.labels, np.int64),
            (sample.areas, np.float64),
            (sample.crowd, np.bool_),
            (sample.difficult, np.bool_),
        ):
            digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


WHOLE = ""
"""The name of the only split of a data set that is not divided."""

UNDIVIDED = "default"
"""What some tools' files call it."""

VALIDATION = {"val", "valid", "validation"}
"""Names of one split."""


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Attributes:
        format: coco, voc or yolo.
        name: for messages.
        splits: such as train and val, just `WHOLE` where it is not divided.
        read: opens a split, or one of the others.
        others: more that may be asked for, as version 1.0 had it: `WHOLE` of what is divided, or
            by a name what is not.
    """

    format: str
    name: str
    splits: tuple[str, ...]
    read: Callable[[str], Dataset]
    others: tuple[str, ...] = ()

    def open(self, split: str | None = None) -> Dataset:
        """One split; where none is named `WHOLE`, or else the only one. DatasetError: there is none
        of the name, several where none is named, or nothing usable in it."""
        alone = split is None and WHOLE not in self.others and len(self.splits) == 1
        chosen = self.splits[0] if alone else split or WHOLE
        if chosen in (*self.splits, *self.others):
            return self.read(chosen)
        same = [s for s in self.splits if {s, split} <= VALIDATION]
        if len(same) == 1:
            return self.read(same[0])
        if self.splits == (WHOLE,):
            raise DatasetError(f"{self.name}: is not divided into splits; leave @{split} out")
        known = ", ".join(self.splits)
        if split is None:
            raise DatasetError(
                f"{self.name}: holds the splits {known}; name one: {self.name}@{self.splits[0]}"
            )
        raise DatasetError(f"{self.name}: has no split {split!r}; expected one of {known}")

    def open_all(self, splits: Sequence[str]) -> dict[str, Dataset]:
        """Some splits by name. One that cannot be used is empty, and its problem says why, where
        another can; else DatasetError."""
        opened: dict[str, Dataset] = {}
        refused: dict[str, DatasetError] = {}
        for split in splits:
            try:
                opened[split] = self.open(split)
            except DatasetError as error:
                refused[split] = error
        if refused and not opened:
            raise next(iter(refused.values()))
        for split, why in refused.items():
            name = f"{self.name}@{split}"
            reason = str(why).removeprefix(f"{name}: ").removeprefix(f"{self.name}: ")
            other = next(iter(opened.values()))
            problem = Problem(split, reason)
            opened[split] = Dataset(name, other.labels, (), other.images, (problem,))
        return {split: opened[split] for split in splits}
