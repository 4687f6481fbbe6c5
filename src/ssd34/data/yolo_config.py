"""What a YOLO data set's .yaml says."""

from __future__ import annotations

import posixpath
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssd34.core.labels import LabelSet, numbered
from ssd34.data.files import Files, read_annotations
from ssd34.errors import DatasetError, OptionError, require

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
        DatasetError: no YAML, or without classes or splits.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = require("yaml", extra="data", why="reading a YOLO data set")
    data = read_annotations(files, file, limit=MAX_YAML_BYTES)
    try:
        # The base loader makes text of every scalar: a class may be called "no" or "1".
        values = yaml.load(data, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{file}: not YAML ({reason:.200})") from None
    if not isinstance(values, dict) or "names" not in values:
        raise DatasetError(
            f"{file}: not a YOLO data set; expected names and at least one of {', '.join(SPLITS)}"
        )
    entries = {s: paths for s in SPLITS if (paths := _paths(values.get(s), f"{file}: {s}"))}
    if not entries:
        raise DatasetError(f"{file}: names no pictures; expected one of {', '.join(SPLITS)}")
    names = _names(values["names"], file)
    try:
        labels = numbered(names.values())
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
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    try:
        if not isinstance(value, dict | list):
            raise TypeError
        names = {int(number): name for number, name in pairs}
        if len(names) != len(value):
            raise ValueError("a number twice")
        if not all(isinstance(name, str) and name for name in names.values()) or min(names) < 0:
            raise TypeError
    except (TypeError, ValueError):
        raise DatasetError(
            f"{file}: names has no valid form ({reprlib.repr(value)}); expected a list of class "
            "names, or numbers from 0 with a name each"
        ) from None
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
