"""What is lost when a data set is written in another format."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

import numpy as np

from ssd34.core.boxes import area
from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.builder import number_samples
from ssd34.datasets.dataset import Dataset, Sample

_AREA_TOLERANCE = 0.01


class Dropped(StrEnum):
    """What a format cannot hold, or holds in another way."""

    CROWD_DIFFICULT = "crowd boxes became difficult boxes"
    IGNORED_LEFT_OUT = "crowd and difficult boxes were left out"
    IGNORED_OBJECTS = "crowd and difficult boxes became ordinary ones"
    AREAS = "areas that differ from the box's by more than 1 % became the box's"
    FRACTIONS = "boxes have fractions of pixels, which some VOC tools do not read"
    NAMES = "pictures got another file name"
    IMAGE_IDS = "pictures will be read with another image id"
    CATEGORY_IDS = "classes will be read with another category id"
    SPLIT_NAMES = "splits got another name"


def drop_unholdable(
    sample: Sample, form: str, *, ignored_as_objects: bool
) -> tuple[Sample, Counter[Dropped]]:
    """What a format can hold of a sample, and what is lost.

    Args:
        sample: not changed.
        form: coco, voc or yolo.
        ignored_as_objects: as in `ssd34.datasets.convert.convert.Options`.
    """
    losses: Counter[Dropped] = Counter()
    if form == "coco":
        return sample, losses
    if form == "voc":
        losses[Dropped.CROWD_DIFFICULT] = int(sample.crowd.sum())
        fractions = (sample.boxes != np.round(sample.boxes)).any(axis=1)
        losses[Dropped.FRACTIONS] = int(fractions.sum())
    elif ignored_as_objects:
        losses[Dropped.IGNORED_OBJECTS] = int(sample.ignored.sum())
    else:
        losses[Dropped.IGNORED_LEFT_OUT] = int(sample.ignored.sum())
        sample = sample.of(~sample.ignored)
    areas = area(sample.boxes.astype(np.float64))
    changed = np.abs(areas - sample.areas) > _AREA_TOLERANCE * areas
    losses[Dropped.AREAS] = int(changed.sum())
    return sample, losses


def count_renumbered(split: WrittenSplit, dataset: Dataset, form: str) -> Counter[Dropped]:
    """Names and numbers that change."""
    names = {s.image_id: s.file_name for s in dataset.samples}
    written = [PurePosixPath(picture.path).name for picture in split.pictures]
    before = [PurePosixPath(names[picture.sample.image_id]).name for picture in split.pictures]
    losses = Counter({Dropped.NAMES: sum(a != b for a, b in zip(before, written, strict=True))})
    if form != "coco":
        # YOLO has no order but that of the names.
        pictures = (
            sorted(split.pictures, key=lambda p: p.path) if form == "yolo" else split.pictures
        )
        samples = [dataclasses.replace(p.sample, file_name=p.path) for p in pictures]
        again = zip(samples, number_samples(samples), strict=True)
        losses[Dropped.IMAGE_IDS] = sum(a.image_id != b.image_id for a, b in again)
        ids = number_classes(dataset.labels.names).category_ids
        losses[Dropped.CATEGORY_IDS] = sum(
            a != b for a, b in zip(ids, dataset.labels.category_ids, strict=True)
        )
    return losses


@dataclass(frozen=True)
class WrittenPicture:
    """A picture that is already in its place, and its boxes.

    Attributes:
        path: below the data set's folder.
        sample: its boxes, without those that the format cannot hold.
    """

    path: str
    sample: Sample


@dataclass(frozen=True)
class WrittenSplit:
    """One split.

    Attributes:
        name: "" where the data set is not divided.
        labels: its classes.
        pictures: in order.
    """

    name: str
    labels: LabelSet
    pictures: tuple[WrittenPicture, ...]
