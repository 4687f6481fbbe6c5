"""Any data set by its path; the format is recognised by what is there.

See `FORMS`. Where a data set is divided, ``PATH@SPLIT`` names a part: ``VOC2007@trainval``,
``data.yaml@val``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from ssd34.datasets import coco, voc, yolo
from ssd34.datasets.dataset import Dataset, Layout
from ssd34.errors import DatasetError
from ssd34.files.tree import BROKEN_ZIP, Files, FolderFiles, ZipFiles

FORMS = (
    "a folder or zip with COCO's instances.json and images/ or annotations/instances_*.json, "
    "with VOC's Annotations/ and JPEGImages/, or with YOLO's data.yaml; or a COCO .json, "
    "FILE.json@FOLDER, or a YOLO .yaml"
)

_FINDERS: tuple[Callable[[Files, str], Layout | None], ...] = (
    coco.find_coco, voc.find_voc, yolo.find_yolo
)  # fmt: skip

_DEPTH = 3
"""How many folders around everything are looked through."""


def open_dataset(path: str | Path) -> Dataset:
    """Read a data set in any form.

    Args:
        path: one of `FORMS`, with ``@SPLIT`` where it is divided.

    Raises:
        DatasetError: nothing usable is there; the message says what was looked for.
        MissingExtraError: it is YOLO's, and PyYAML is not installed.
    """
    source, split = split_path(path)
    return find_dataset(source).open(split)


def split_path(path: str | Path) -> tuple[str, str | None]:
    """``PATH@SPLIT`` as both; ``FILE.json@FOLDER`` and names that hold an @ stay whole."""
    text = str(path)
    before, separator, split = text.rpartition("@")
    if not separator or os.path.exists(text) or not before:
        return text, None
    if "/" in split or os.sep in split or before.endswith(".json"):
        return text, None
    return before, split


def place_of(path: str | Path) -> Path:
    """The file or folder in a path of one of `FORMS`; of ``FILE.json@FOLDER`` the file."""
    text, _ = split_path(path)
    before, separator, _ = text.partition(".json@")
    return Path(f"{before}.json" if separator and not os.path.exists(text) else text)


def is_annotation_name(path: Path) -> bool:
    """Whether a file of this name in a data set's folder may be read for its annotations."""
    if path.suffix.lower() == ".json":
        known = path.name in (coco.ANNOTATIONS, coco.ROBOFLOW)
        return known or path.name.startswith(coco.SPLIT_PREFIX)
    return path.suffix.lower() in (*yolo.SUFFIXES, ".xml", ".txt")


def find_dataset(path: str | Path) -> Layout:
    """Recognise a data set without reading its boxes.

    Args:
        path: one of `FORMS`, without ``@SPLIT``.

    Raises:
        DatasetError: nothing known is there.
    """
    text = str(path)
    before, separator, after = text.partition(".json@")
    if separator and not os.path.exists(text):
        file = Path(f"{before}.json")
        if not os.path.exists(file):
            raise DatasetError(f"{file}: no such data set; expected {FORMS}")
        if not Path(after).is_dir():
            raise DatasetError(f"{after}: no such folder of pictures for {file}")
        return coco.coco_file(file, text, pictures=Path(after))
    source = Path(text)
    if not os.path.exists(source):
        raise DatasetError(f"{source}: no such data set; expected {FORMS}")
    if source.is_dir():
        return _search(FolderFiles(source), text)
    if zipfile.is_zipfile(source):
        try:
            return _search(ZipFiles(source), text)
        except BROKEN_ZIP as error:
            raise DatasetError(f"{source}: broken archive ({error}); fetch it again") from None
    if source.suffix.lower() == ".json":
        return coco.coco_file(source, text)
    if source.suffix.lower() in yolo.SUFFIXES:
        return yolo.yolo_file(FolderFiles(source.parent), source.name, text)
    raise DatasetError(f"{source}: not a zip, a folder, a .json or a .yaml; expected {FORMS}")


def _search(files: Files, name: str) -> Layout:
    """Look in a place, then in the only folder in it, as archives have one around everything."""
    place = files
    for _ in range(_DEPTH):
        for find in _FINDERS:
            layout = find(place, name)
            if layout is not None:
                return layout
        folders = place.folders()
        if len(folders) != 1:
            break
        place = place.below(folders[0])
    raise DatasetError(f"{name}: holds no data set that is known; expected {FORMS}")
