"""Where the pictures of a new data set lie, and how they get there."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np

from ssd34.datasets.builder import size_of
from ssd34.datasets.convert.coco import coco_folder
from ssd34.datasets.convert.yolo import yolo_folder
from ssd34.datasets.dataset import Dataset, Sample, check_size
from ssd34.datasets.voc import PICTURES
from ssd34.errors import ImageError, OptionError
from ssd34.files.tree import FileNames, FolderFiles
from ssd34.images.read import SUFFIXES, image_size


class Places:
    """Where every picture goes. In VOC, splits share pictures; the other formats have a folder a
    split."""

    def __init__(self, form: str, *, divided: bool) -> None:
        self.form = form
        self.divided = divided
        self.names = FileNames(flat=form == "voc", by_stem=form != "coco")
        self._known: dict[tuple[str, str, str], tuple[str, Sample]] = {}

    def of(self, dataset: Dataset, split: str, sample: Sample) -> tuple[str, bool]:
        """The path, and whether the picture is not there yet."""
        folder = {
            "coco": coco_folder(split, divided=self.divided),
            "voc": PICTURES,
            "yolo": yolo_folder(split),
        }[self.form]
        key = self._key(dataset, split, sample)
        known = self._known.get(key)
        if known is not None and (self.form == "coco" or _same_boxes(known[1], sample)):
            return known[0], False
        path = self.names.name(folder, sample.file_name)
        self._known[key] = path, sample
        return path, True

    def forget(self, dataset: Dataset, split: str, sample: Sample) -> None:
        """The picture could not be read."""
        self._known.pop(self._key(dataset, split, sample), None)

    def _key(self, dataset: Dataset, split: str, sample: Sample) -> tuple[str, str, str]:
        return ("" if self.form == "voc" else split, str(dataset.images), sample.file_name)


def _same_boxes(a: Sample, b: Sample) -> bool:
    return (
        np.array_equal(a.boxes, b.boxes)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.ignored, b.ignored)
    )


def place(dataset: Dataset, sample: Sample, path: Path, *, link: bool) -> None:
    """Copy or link a picture; refuse one that its boxes would not fit."""
    name, images = sample.file_name, dataset.images
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise ImageError(f"{name}: has no ending of a picture; rename it")
    data = b""
    if not link:
        data = images.read_bytes(name)
        size = image_size(io.BytesIO(data), name)
    elif isinstance(images, FolderFiles):
        size = size_of(images, name)
    else:
        raise OptionError(f"{dataset.name}: pictures in a zip cannot be linked; leave --link out")
    check_size(sample, width=size[0], height=size[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(images, FolderFiles) or not link:
        path.write_bytes(data)
        return
    try:
        path.hardlink_to(images.path(name))
    except OSError as error:
        raise OptionError(
            f"{images.path(name)}: cannot be linked from {path.parent} ({error.strerror}); leave "
            "--link out"
        ) from None
