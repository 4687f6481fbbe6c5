"""YOLO data sets, read.

A ``data.yaml`` or ``obj.data`` names the classes and, for each split, a folder of pictures, a
``.txt`` that lists pictures, or several of these; where it names none, or where only a list of
classes is there, folders called as splits are. The boxes of ``images/a.jpg`` are in
``labels/a.txt``, a line each: class, centre x, centre y, width, height, in fractions of the
picture. A line with more corners is an outline, of which the bounding box is taken; a sixth number
is a confidence, which is not read.
Nothing outside the folder is read.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np

from ssd34.datasets.builder import Findings, SampleBuilder, number_samples, read_size
from ssd34.datasets.contents import Contents, is_picture
from ssd34.datasets.dataset import Dataset, Kind, Layout, Sample
from ssd34.datasets.foreign import has_yolo_rows
from ssd34.datasets.yolo_config import (
    CLASS_LISTS,
    YoloConfig,
    names_classes,
    read_class_list,
    read_config,
    read_darknet,
)
from ssd34.errors import DatasetError, ImageError
from ssd34.files.tree import Files, FolderFiles, normalise_name, read_lines
from ssd34.text import counted

SUFFIXES = (".yaml", ".yml")
USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
DARKNET = ".data"

MAX_LABEL_BYTES = 16 << 20
MAX_LIST_BYTES = 256 << 20

_SLACK = 0.01
"""How far a rounded fraction may be outside 0..1."""

_FEW = 100


def find_yolo(contents: Contents, name: str) -> Layout | None:
    """A YOLO data set in a folder or zip by its usual names, if that is what it is."""
    here = contents.files.names()
    usual = [n for n in USUAL if n in here][:1]
    yaml = [n for n in here if n.lower().endswith(SUFFIXES) and names_classes(contents.files, n)]
    darknet = [n for n in here if n.lower().endswith(DARKNET)]
    for files in (usual, yaml, darknet):
        if len(files) == 1:
            return open_yolo_file(contents, files[0], name)
    return None


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Within it errors of a file name the data set, too: others have a file of that name."""
    try:
        yield
    except DatasetError as error:
        text = str(error)
        if not text.startswith(name):
            text = f"{name}: {text.removeprefix(f'{posixpath.basename(name)}: ')}"
        raise DatasetError(text) from None


def find_any_yolo(contents: Contents, name: str) -> Layout | None:
    """A YOLO data set by a .yaml in a folder below, or by a list of classes and label files."""
    some = contents.ending(*SUFFIXES, DARKNET)[:_FEW]
    usual = [n for n in some if posixpath.basename(n) in (*USUAL, "obj.data")]
    telling = [n for n in some if names_classes(contents.files, n)]
    for files in (usual, telling):
        if len(files) == 1:
            return open_yolo_file(contents, files[0], name)
    lists = [n for n in contents.ending(*CLASS_LISTS) if posixpath.basename(n) in CLASS_LISTS]
    rows = (n for n in contents.ending(".txt")[:_FEW] if has_yolo_rows(contents.files, n))
    if lists and (any(_label_file(contents, p) for p in contents.pictures[:_FEW]) or any(rows)):
        used = _folders(contents)
        lists = [n for n in lists if posixpath.dirname(n) in used] or lists
        called = posixpath.basename(lists[0])
        same = [n for n in lists if posixpath.basename(n) == called]
        with _naming(name):
            return _layout(contents, read_class_list(contents, same), name)
    return None


def _folders(contents: Contents) -> set[str]:
    """The folders of pictures and of their label files, and those around them."""
    files = {f for p in contents.pictures for f in (p, name_label_file(p))}
    own = {posixpath.dirname(file) for file in files}
    return own | {f"{up}".removeprefix(".") for f in own for up in PurePosixPath(f).parents}


def open_yolo_file(contents: Contents, file: str, name: str) -> Layout:
    """The data set that a .yaml or .data in the folder given describes; DatasetError where it is no
    YAML, or without classes or splits, MissingExtraError where PyYAML is not installed."""
    darknet = file.lower().endswith(DARKNET)
    with _naming(name):
        config = read_darknet(contents, file) if darknet else read_config(contents, file)
    if contents.outer and config.root and contents.files.inside(config.root) is None:
        outer, folder = contents.outer  # `path: ..`
        return open_yolo_file(outer, posixpath.join(folder, file), name)
    return _layout(contents, config, name)


def _layout(contents: Contents, config: YoloConfig, name: str) -> Layout:
    def is_there(split: str) -> bool:
        return any(find_entry(contents, config, entry)[0] for entry in config.entries[split])

    known = tuple(filter(is_there, config.entries)) or tuple(config.entries)
    splits = tuple(filter(None, known)) or known
    others = tuple(split for split in known if split not in splits)

    def read(split: str) -> Dataset:
        title = f"{name}@{split}" if split and len(splits) > 1 else name
        with _naming(name):
            return _read(contents, config, split, title)

    return Layout("yolo", name, splits, read, others)


def _read(contents: Contents, config: YoloConfig, split: str, title: str) -> Dataset:
    files, found = contents.files, Findings()
    pictures: list[str] = []
    moved: dict[str, str] = {}
    for entry in config.entries[split]:
        place, exact = find_entry(contents, config, entry)
        if place is None:
            raise DatasetError(
                f"{config.name}: {split}: {entry} is not below {files} (path: "
                f"{config.root or 'none'}); correct it, or put {config.name} into the data set's "
                "folder, or give the folder that holds both"
            )
        if not exact:
            moved[entry] = place
        pictures += _pictures(contents, place, found, moved)
    if not pictures:
        first = f"first problem: {found.problems[0]}; " if found.problems else ""
        raise DatasetError(
            f"{title}: no picture in {', '.join(config.entries[split])}; {first}expected files "
            f"such as .jpg or .png, or links that stay below {files}; export the pictures, too"
        )
    labelled = {picture: _label_file(contents, picture) for picture in pictures}
    if not any(labelled.values()):
        raise DatasetError(
            f"{title}: none of {counted(len(pictures), 'picture')} has a label file; expected for "
            f"example {name_label_file(pictures[0])}"
        )
    base = posixpath.commonpath([posixpath.dirname(picture) for picture in pictures])
    sharing = Counter(file for picture, file in labelled.items() if file)
    samples: list[Sample] = []
    twins: list[str] = []
    scored = 0
    for picture, count in Counter(pictures).items():
        name = posixpath.relpath(picture, base or ".")
        if count > 1:
            found.leave_out(name, Kind.PICTURE_TWICE, f"is listed {count} times")
        file = labelled[picture]
        if file and sharing[file] > 1:
            reason = f"another picture has the same label file, {file}; rename one of them"
            found.leave_out(name, Kind.PICTURE_TWICE, reason)
            continue
        try:
            width, height = read_size(files, picture)
            rows = _rows(files, file) if file else []
        except (ImageError, DatasetError) as error:
            kind = Kind.UNREADABLE if isinstance(error, ImageError) else Kind.BROKEN_ENTRY
            found.leave_out(name, kind, str(error).removeprefix(f"{picture}: "))
            continue
        if file and contents.is_twin(picture):
            twins.append(name)
        builder = SampleBuilder(name, width=width, height=height, findings=found)
        for place, row in rows:
            scored += _add_row(builder, row, place, config)
        samples.append(builder.sample(0))
    found.assume_moved(title, moved, "path", by=f"{config.name} or a list")
    if twins:
        what = (
            f"{counted(len(twins), 'picture')} with the label file of another, not listed picture"
        )
        found.assume(title, f"{what}: {twins[0]}")
    if scored:
        what = f"{counted(scored, 'row')} with a sixth number, taken for a confidence"
        found.assume(title, f"{what}, which is not read")
    numbered = number_samples(samples)
    remedy = ""
    if isinstance(files, FolderFiles) and any(files.is_lost_link(p) for p in pictures[:_FEW]):
        remedy = "give the folder that holds links and pictures, or copy the set with cp -rL"
    below = files.below(base)
    return found.dataset(title, config.labels, numbered, below, of=len(pictures), remedy=remedy)


def _pictures(contents: Contents, place: str, found: Findings, moved: dict[str, str]) -> list[str]:
    """The pictures of one entry, as names below the folder given."""
    files = contents.files
    if files.is_folder(place):
        return [n for n in files.names(place, deep=True) if is_picture(n)]
    pictures = []
    here = posixpath.dirname(place)
    for number, line in enumerate(read_lines(files, place, limit=MAX_LIST_BYTES), start=1):
        path = line.strip()
        if not path:
            continue
        relative = [normalise_name(posixpath.join(here, path)), files.inside(path)]
        name = next((n for n in relative if n is not None and files.exists(n)), None)
        if name is None and len(fitting := contents.find(path)) == 1:
            name = fitting[0]
            moved[path] = name
        if name is None:
            found.leave_out(place, Kind.MISSING, f"line {number}: no such picture: {path:.200}")
        else:
            pictures.append(name)
    return pictures


def name_label_file(picture: str) -> str:
    """Where the label file of a picture usually is: in labels/ instead of the last images/."""
    folders = posixpath.dirname(picture).split("/")
    lower = [folder.lower() for folder in folders]
    if "images" in lower:
        folders[len(folders) - 1 - lower[::-1].index("images")] = "labels"
    return posixpath.join(*folders, f"{PurePosixPath(picture).stem}.txt")


def _label_file(contents: Contents, picture: str) -> str | None:
    """The label file of a picture: where it usually is, else beside it, else so in other letters;
    None: it has none. A link that leads out or to nothing counts: reading it says so."""
    files = contents.files
    names = (name_label_file(picture), str(PurePosixPath(picture).with_suffix(".txt")))
    there = (n for n in names if files.exists(n) or files.is_lost_link(n))
    return next(there, None) or next(filter(None, map(contents.in_any_case, names)), None)


def _rows(files: Files, label_file: str) -> list[tuple[str, str]]:
    """The rows of a label file but comments, as `ssd34 detect` writes some, each with its place."""
    lines = read_lines(files, label_file, limit=MAX_LABEL_BYTES)
    rows = [(f"{label_file} line {n}", line.strip()) for n, line in enumerate(lines, start=1)]
    return [(place, row) for place, row in rows if row and not row.startswith("#")]


def _add_row(builder: SampleBuilder, row: str, place: str, config: YoloConfig) -> bool:
    """Add a row's box; whether the row has a confidence."""
    shown = f"{row:.80}"
    try:
        class_number, *values = map(float, row.split())
        scored = len(values) == 5 and 0 <= values[4] <= 1 and not config.keypoints
        x, y, w, h = _box(values[:4] if scored else values, keypoints=config.keypoints)
    except ValueError as error:
        builder.wrong(Kind.BROKEN_ENTRY, f"{error!s:.120}: {shown}", place=place)
        return False
    sides = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    # Fractions are exact to 1e-16 only; what that is in pixels is noise.
    pixels = np.round(sides * ([builder.width, builder.height] * 2), 9)
    left, top, right, bottom = map(float, pixels)
    box = (left, top, right, bottom)
    label = config.label_of.get(int(class_number)) if class_number.is_integer() else None
    if label is None:
        builder.wrong(Kind.UNKNOWN_CLASS, f"unknown class number: {shown}", place=place, box=box)
        return scored
    builder.add(box, label, shown=shown, place=place)
    return scored


def _box(values: list[float], *, keypoints: bool) -> tuple[float, float, float, float]:
    """A row's numbers after the class as cxcywh; ValueError, which says what is wrong, if any."""
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


def find_entry(contents: Contents, config: YoloConfig, entry: str) -> tuple[str | None, bool]:
    """An entry as a folder or file that is there, and whether it is there as written: relative to
    `path`; where that is a folder of another machine, or nothing is there, to the file that names
    it; exports of Roboflow begin it with one ../ too many. Else the end of it counts."""
    files = contents.files
    here = config.folder
    root = files.inside(posixpath.join(here, config.root)) if config.root else here
    candidates = [] if root is None else [posixpath.join(root, entry)]
    if config.root and (absolute := files.inside(config.root)) is not None:
        candidates.append(posixpath.join(absolute, entry))
    without_up = entry.replace("\\", "/").removeprefix("../")
    candidates += [posixpath.join(here, entry), posixpath.join(here, without_up), entry]
    for candidate in candidates:
        place = files.inside(candidate)
        if place is not None and (files.is_folder(place) or files.exists(place)):
            return place, True
    folder = contents.find_folder(entry)
    if folder and any(is_picture(n) for n in files.names(folder, deep=True)):
        return folder, False
    lists = contents.find(entry, wanted=lambda name: name.lower().endswith(".txt"))
    return (lists[0], False) if len(lists) == 1 else (None, False)
