"""What a YOLO data set says about itself: a data.yaml, Darknet's obj.data, or a list of classes."""

from __future__ import annotations

import posixpath
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.contents import Contents, split_of
from ssd34.datasets.dataset import WHOLE
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files.tree import Files, read_annotations, read_lines
from ssd34.text import parse_yaml

SPLITS = ("train", "val", "test")
KEYS = ("train", "val", "valid", "validation", "test")
"""What splits are called in a file; more than `SPLITS`, which is what we write."""

MAX_YAML_BYTES = 1 << 20

CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "names.txt", "labels.txt")
"""Files with a class name a line, where nothing else says the classes."""


@dataclass(frozen=True)
class YoloConfig:
    """What a data set says about itself.

    Attributes:
        name, folder: of the file; "" is the data set's own folder.
        labels: the classes in the order of their numbers.
        label_of: class number in label files to label.
        entries: split to the paths that it names; beside splits `WHOLE` may stand for all.
        root: its `path`, "" where it has none.
        keypoints: whether rows carry key points after the box.
    """

    name: str
    folder: str
    labels: LabelSet
    label_of: Mapping[int, int]
    entries: Mapping[str, tuple[str, ...]]
    root: str = ""
    keypoints: bool = False


def names_classes(files: Files, file: str) -> bool:
    """Whether a .yaml or .data has names, without reading it as YAML."""
    try:
        with files.opened(file) as stream:
            text = stream.read(MAX_YAML_BYTES)
    except ImageError:
        return False
    return re.search(rb"^\W*names\W*[:=]", text, re.MULTILINE) is not None


def read_config(contents: Contents, file: str) -> YoloConfig:
    """A .yaml; DatasetError where it is none, a key stands twice, or classes or splits are missing,
    MissingExtraError where PyYAML is not installed."""
    require("yaml", extra="data", why="reading a YOLO data set")
    data = read_annotations(contents.files, file, limit=MAX_YAML_BYTES)
    try:
        # A class may be called "no" or "1".
        values = parse_yaml(data, scalars_as_text=True)
    except ValueError as error:
        raise DatasetError(f"{file}: not YAML ({error!s:.200})") from None
    if not isinstance(values, dict) or "names" not in values:
        raise DatasetError(
            f"{file}: not a YOLO data set; expected names and at least one of {', '.join(SPLITS)}"
        )
    entries = {s: paths for s in KEYS if (paths := _paths(values.get(s), f"{file}: {s}"))}
    folder = posixpath.dirname(file)
    root = values.get("path", "") if entries else ""
    entries = entries or _find_entries(contents, folder)
    if not entries:
        raise DatasetError(
            f"{file}: names no pictures; expected one of {', '.join(SPLITS)}, or images/ beside it"
        )
    numbered = _numbered(_names(values["names"], file), file)
    root = root if isinstance(root, str) else ""
    return YoloConfig(file, folder, *numbered, entries, root, keypoints="kpt_shape" in values)


def read_darknet(contents: Contents, file: str) -> YoloConfig:
    """Darknet's file, a .data: ``train = data/train.txt``, ``names = data/obj.names``;
    DatasetError where classes or splits are missing."""
    lines = read_lines(contents.files, file, limit=MAX_YAML_BYTES)
    pairs = (line.partition("=") for line in lines)
    values = {key.strip().lower(): value.strip() for key, _, value in pairs}
    names = contents.find(values.get("names", ""), wanted=bool) or contents.ending(".names")
    if not names:
        raise DatasetError(f"{file}: no file of class names such as obj.names is there; add it")
    entries: dict[str, tuple[str, ...]] = {s: (values[s],) for s in KEYS if values.get(s)}
    folder = posixpath.dirname(file)
    entries = entries or _find_entries(contents, folder)
    if not entries:
        raise DatasetError(f"{file}: names no pictures; expected one of {', '.join(KEYS)}")
    return YoloConfig(file, folder, *_listed(contents, names[0]), entries)


def read_class_list(contents: Contents, files: Sequence[str]) -> YoloConfig:
    """A folder that has only lists of classes, such as one a split, of which the longest holds;
    DatasetError where another gives a number another class, and without classes or pictures."""
    entries = _find_entries(contents, "")
    if not entries:
        raise DatasetError(
            f"{files[0]}: a list of classes, but no picture is there; export the pictures, too"
        )
    names = {file: _read_names(contents, file) for file in files}
    longest = max(files, key=lambda file: len(names[file]))
    for file in files:
        if names[file] != names[longest][: len(names[file])]:
            raise DatasetError(
                f"{' and '.join(sorted((longest, file)))} give classes other numbers; give the "
                "folders one by one, or write a data.yaml if one of the lists holds for all"
            )
    return YoloConfig(longest, "", *_listed(contents, longest), entries)


def _listed(contents: Contents, file: str) -> tuple[LabelSet, dict[int, int]]:
    """A class name a line; a blank line is a number without class."""
    names = _read_names(contents, file)
    return _numbered({k: name for k, name in enumerate(names) if name}, file)


def _read_names(contents: Contents, file: str) -> list[str]:
    """The lines of a file, up to the last that is not blank."""
    lines = read_lines(contents.files, file, limit=MAX_YAML_BYTES)
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    return names


def _numbered(names: dict[int, str], file: str) -> tuple[LabelSet, dict[int, int]]:
    try:
        labels = number_classes(names.values())
    except OptionError as error:
        raise DatasetError(f"{file}: {error}") from None
    return labels, {number: label for label, number in enumerate(names, start=1)}


def _find_entries(contents: Contents, folder: str) -> dict[str, tuple[str, ...]]:
    """Where nothing names them: folders of pictures that are called as splits, else the whole. A
    folder that holds all of them is looked into; what is divided there is the whole, too."""
    here = f"{folder}/" if folder else ""
    pictures = [name[len(here) :] for name in contents.pictures if name.startswith(here)]
    parts = [name.split("/")[:-1] for name in pictures]
    below_images = {p[1] for p in parts if len(p) > 1 and p[0].lower() == "images"}
    images = next((p[0] for p in parts if p and p[0].lower() == "images"), "")
    for around, folders in ((images, below_images), ("", {p[0] for p in parts if p})):
        splits = [f for f in sorted(folders) if split_of(f)]
        inside = [p[: 2 if around else 1] for p in parts]
        if splits and all(p and p[-1] in splits for p in inside):
            return {f: (posixpath.join(around, f),) for f in splits}
    if not pictures:
        return {}
    outer = {p[0] if p else "" for p in parts}
    if len(outer) > 1 or outer == {""}:
        return {WHOLE: (".",)}
    (only,) = outer
    if only == images:
        return {WHOLE: (images,)}
    found = _find_entries(contents, here + only)
    return {WHOLE: (only,), **{s: (posixpath.join(only, p),) for s, (p,) in found.items()}}


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
