"""YOLO data sets, read.

A ``data.yaml`` names the classes and, for each split, a folder of pictures, a ``.txt`` that lists
pictures, or several of these. The boxes of ``images/a.jpg`` are in ``labels/a.txt``, a line each:
class, centre x, centre y, width, height, in fractions of the picture. A line with more corners is
an outline, of which the bounding box is taken. Nothing outside the folder of the ``.yaml`` is read.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import PurePosixPath

import numpy as np

from ssd34.core.counted import counted
from ssd34.data.dataset import Dataset, Kind, Problem, Sample
from ssd34.data.files import Files, normal, read_lines
from ssd34.data.image_io import SUFFIXES as PICTURE_SUFFIXES
from ssd34.data.layout import Layout
from ssd34.data.sample_builder import Findings, SampleBuilder, size_of, with_ids
from ssd34.data.yolo_config import YoloConfig, place_of, places_of, read_config
from ssd34.errors import DatasetError, ImageError

SUFFIXES = (".yaml", ".yml")
USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")

MAX_LABEL_BYTES = 16 << 20
MAX_LIST_BYTES = 256 << 20

_SLACK = 0.01
"""How far a rounded fraction may be outside 0..1."""


def find_yolo(files: Files, name: str) -> Layout | None:
    """A YOLO data set in a folder or zip, if that is what it is."""
    here = [n for n in files.names() if n.lower().endswith(SUFFIXES)]
    file = next((n for n in USUAL if n in here), here[0] if len(here) == 1 else None)
    return yolo_file(files, file, name) if file else None


def yolo_file(files: Files, file: str, name: str) -> Layout:
    """The data set that a .yaml describes.

    Args:
        files: the folder of the .yaml.
        file: its name.
        name: for messages.

    Raises:
        DatasetError: no YAML, or without classes or splits.
        MissingExtraError: PyYAML is not installed.
    """
    config = read_config(files, file)
    there = tuple(s for s, entries in config.entries.items() if places_of(files, config, entries))
    splits = there or tuple(config.entries)

    def read(split: str) -> Dataset:
        title = f"{name}@{split}" if len(splits) > 1 else name
        return _read(files, config, split, title)

    return Layout("yolo", name, splits, read)


def _read(files: Files, config: YoloConfig, split: str, title: str) -> Dataset:
    found = Findings()
    pictures: list[str] = []
    for entry in config.entries[split]:
        place = place_of(files, config, entry)
        if place is None:
            raise DatasetError(
                f"{config.name}: {split}: {entry} is not below {files} (path: "
                f"{config.root or 'none'}); correct it, or put {config.name} into the data set's "
                "folder"
            )
        pictures += _pictures(files, place, found)
    if not pictures:
        raise DatasetError(
            f"{title}: no picture in {', '.join(config.entries[split])}; expected files such as "
            f".jpg or .png, or links that stay below {files}"
        )
    labelled = {picture: _label_file(files, picture) for picture in pictures}
    if not any(labelled.values()):
        raise DatasetError(
            f"{title}: none of {counted(len(pictures), 'picture')} has a label file; expected for "
            f"example {label_name(pictures[0])}"
        )
    base = posixpath.commonpath([posixpath.dirname(picture) for picture in pictures])
    sharing = Counter(file for picture, file in labelled.items() if file)
    samples: list[Sample] = []
    for picture, count in Counter(pictures).items():
        name = posixpath.relpath(picture, base or ".")
        if count > 1:
            reason = f"is listed {count} times"
            found.problems.append(Problem(name, reason, Kind.PICTURE_TWICE))
        file = labelled[picture]
        if file and sharing[file] > 1:
            reason = f"another picture has the same label file, {file}; rename one of them"
            found.problems.append(Problem(name, reason, Kind.PICTURE_TWICE))
            continue
        try:
            width, height = size_of(files, picture)
            rows = _rows(files, file) if file else []
        except (ImageError, DatasetError) as error:
            reason = str(error).removeprefix(f"{picture}: ")
            kind = Kind.UNREADABLE if isinstance(error, ImageError) else Kind.BROKEN_ENTRY
            found.problems.append(Problem(name, reason, kind))
            continue
        builder = SampleBuilder(name, width=width, height=height, findings=found)
        for place, row in rows:
            _add_row(builder, row, place, config)
        samples.append(builder.sample(0))
    if not samples:
        raise DatasetError(
            f"{title}: no usable picture among {len(pictures)}; first problem: {found.problems[0]}"
        )
    return Dataset(
        title,
        config.labels,
        with_ids(samples),
        files.below(base),
        tuple(found.problems),
        tuple(found.remarks),
    )


def _pictures(files: Files, place: str, found: Findings) -> list[str]:
    """The pictures of one entry, as names below the .yaml."""
    if files.is_folder(place):
        names = files.names(place, deep=True)
        return [n for n in names if PurePosixPath(n).suffix.lower() in PICTURE_SUFFIXES]
    pictures = []
    here = posixpath.dirname(place)
    for number, line in enumerate(read_lines(files, place, limit=MAX_LIST_BYTES), start=1):
        path = line.strip()
        if not path:
            continue
        relative = [normal(posixpath.join(here, path)), files.inside(path)]
        name = next((n for n in relative if n is not None and files.exists(n)), None)
        if name is None:
            reason = f"line {number}: no such picture: {path:.200}"
            found.problems.append(Problem(place, reason, Kind.MISSING))
        else:
            pictures.append(name)
    return pictures


def label_name(picture: str) -> str:
    """Where the label file of a picture usually is: in labels/ instead of the last images/."""
    folders = posixpath.dirname(picture).split("/")
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return posixpath.join(*folders, f"{PurePosixPath(picture).stem}.txt")


def _label_file(files: Files, picture: str) -> str | None:
    """The label file of a picture: where it usually is, else beside it; None: it has none. A link
    that leads out or to nothing counts: reading it says so."""
    beside = str(PurePosixPath(picture).with_suffix(".txt"))
    names = (label_name(picture), beside)
    return next((n for n in names if files.exists(n) or files.is_lost_link(n)), None)


def _rows(files: Files, label_file: str) -> list[tuple[str, str]]:
    """The rows of a label file, each with its place."""
    lines = read_lines(files, label_file, limit=MAX_LABEL_BYTES)
    rows = [(f"{label_file} line {n}", line.strip()) for n, line in enumerate(lines, start=1)]
    return [(place, row) for place, row in rows if row]


def _add_row(builder: SampleBuilder, row: str, place: str, config: YoloConfig) -> None:
    shown = f"{row:.80}"
    try:
        class_number, *values = map(float, row.split())
        x, y, w, h = _box(values, keypoints=config.keypoints)
    except ValueError as error:
        builder.wrong(Kind.BROKEN_ENTRY, f"{error!s:.120}: {shown}", place=place)
        return
    sides = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    # Fractions are exact to 1e-16 only; what that is in pixels is noise.
    pixels = np.round(sides * ([builder.width, builder.height] * 2), 9)
    left, top, right, bottom = map(float, pixels)
    box = (left, top, right, bottom)
    label = config.label_of.get(int(class_number)) if class_number.is_integer() else None
    if label is None:
        builder.wrong(Kind.UNKNOWN_CLASS, f"unknown class number: {shown}", place=place, box=box)
        return
    builder.add(box, label, shown=shown, place=place)


def _box(values: list[float], *, keypoints: bool) -> tuple[float, float, float, float]:
    """A row's numbers after the class as cxcywh.

    Raises:
        ValueError: what is wrong.
    """
    if len(values) > 4 and keypoints:
        values = values[:4]
    outline = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not outline:
        raise ValueError(
            f"expected a class and 4 numbers, or an outline, got {len(values)} numbers"
        )
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        raise ValueError("expected fractions of the picture, 0 to 1")
    if not outline:
        return values[0], values[1], values[2], values[3]
    xs, ys = values[0::2], values[1::2]
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
