"""YOLO data sets, read.

A ``data.yaml`` names the classes and, for each split, a folder of pictures, a ``.txt`` that lists
pictures, or several of these. The boxes of ``images/a.jpg`` are in ``labels/a.txt``, a line each:
class, centre x, centre y, width, height, in fractions of the picture. A line with more corners is
an outline, of which the bounding box is taken. Nothing outside the folder of the ``.yaml`` is read.
"""

from __future__ import annotations

import posixpath
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.builder import Findings, SampleBuilder, number_samples, size_of
from ssd34.datasets.dataset import Dataset, Kind, Layout, Problem, Sample
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files.tree import Files, normalise_name, read_annotations, read_lines
from ssd34.images.read import SUFFIXES as PICTURE_SUFFIXES
from ssd34.text import counted, parse_yaml

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
    return open_yolo_file(files, file, name) if file else None


def open_yolo_file(files: Files, file: str, name: str) -> Layout:
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
    numbered = number_samples(samples)
    return found.dataset(title, config.labels, numbered, files.below(base), of=len(pictures))


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
        relative = [normalise_name(posixpath.join(here, path)), files.inside(path)]
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


SPLITS = ("train", "val", "test")

MAX_YAML_BYTES = 1 << 20


@dataclass(frozen=True)
class YoloConfig:
    """What a data.yaml says.

    Attributes:
        name: of the file.
        labels: the classes in the order of their numbers.
        label_of: class number in label files to label.
        entries: split to the paths that it names.
        root: its `path`, "" where it has none.
        keypoints: whether rows carry key points after the box.
    """

    name: str
    labels: LabelSet
    label_of: Mapping[int, int]
    entries: Mapping[str, tuple[str, ...]]
    root: str
    keypoints: bool


def read_config(files: Files, file: str) -> YoloConfig:
    """A .yaml.

    Raises:
        DatasetError: no YAML, a key stands twice, or without classes or splits.
        MissingExtraError: PyYAML is not installed.
    """
    require("yaml", extra="data", why="reading a YOLO data set")
    data = read_annotations(files, file, limit=MAX_YAML_BYTES)
    try:
        # A class may be called "no" or "1".
        values = parse_yaml(data, scalars_as_text=True)
    except ValueError as error:
        raise DatasetError(f"{file}: not YAML ({error!s:.200})") from None
    if not isinstance(values, dict) or "names" not in values:
        raise DatasetError(
            f"{file}: not a YOLO data set; expected names and at least one of {', '.join(SPLITS)}"
        )
    entries = {s: paths for s in SPLITS if (paths := _paths(values.get(s), f"{file}: {s}"))}
    if not entries:
        raise DatasetError(f"{file}: names no pictures; expected one of {', '.join(SPLITS)}")
    names = _names(values["names"], file)
    try:
        labels = number_classes(names.values())
    except OptionError as error:
        raise DatasetError(f"{file}: {error}") from None
    root = values.get("path", "")
    return YoloConfig(
        name=file,
        labels=labels,
        label_of={number: label for label, number in enumerate(names, start=1)},
        entries=entries,
        root=root if isinstance(root, str) else "",
        keypoints="kpt_shape" in values,
    )


def _names(value: Any, file: str) -> dict[int, str]:
    """Class number to name, in the order of the numbers."""
    try:
        if not isinstance(value, dict | list):
            raise TypeError
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        names = {int(number): name for number, name in pairs}
        if not all(isinstance(name, str) and name for name in names.values()) or min(names) < 0:
            raise TypeError
    except (TypeError, ValueError):
        raise DatasetError(
            f"{file}: names has no valid form ({reprlib.repr(value)}); expected a list of class "
            "names, or numbers from 0 with a name each"
        ) from None
    if len(names) < len(pairs):
        numbers = ", ".join(str(number) for number, _ in pairs)
        raise DatasetError(f"{file}: names has a number twice, in another spelling: {numbers:.200}")
    return dict(sorted(names.items()))


def _paths(value: Any, where: str) -> tuple[str, ...]:
    if value is None or value in ("", "~", "null"):
        return ()
    paths = value if isinstance(value, list) else [value]
    if not all(isinstance(path, str) for path in paths):
        raise DatasetError(
            f"{where} has no valid form ({reprlib.repr(value)}); expected a folder, a .txt, or a "
            "list of these"
        )
    return tuple(path for path in paths if path)


def places_of(files: Files, config: YoloConfig, entries: Sequence[str]) -> list[str]:
    """Those of the entries that are there."""
    return [place for entry in entries if (place := place_of(files, config, entry)) is not None]


def place_of(files: Files, config: YoloConfig, entry: str) -> str | None:
    """An entry as a folder or file that is there.

    It is relative to `path`; where that is a folder of another machine, or nothing is there, to
    the .yaml; exports of Roboflow begin it with one ../ too many.
    """
    root = files.inside(config.root) if config.root else ""
    candidates = [] if root is None else [posixpath.join(root, entry)]
    candidates += [entry, entry.replace("\\", "/").removeprefix("../")]
    for candidate in candidates:
        place = files.inside(candidate)
        if place is not None and (files.is_folder(place) or files.exists(place)):
            return place
    return None
