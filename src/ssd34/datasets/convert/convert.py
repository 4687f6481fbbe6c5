"""Data sets from one format to another."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssd34.core.labels import LabelSet
from ssd34.datasets.builder import read_size
from ssd34.datasets.convert import writers
from ssd34.datasets.convert.writers import Dropped
from ssd34.datasets.dataset import WHOLE, Dataset, Problem, Sample, check_size
from ssd34.datasets.voc_places import PICTURES
from ssd34.datasets.yolo_config import SPLITS as YOLO_SPLITS
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files.atomic import folder_written_whole
from ssd34.files.lock import file_locked
from ssd34.files.tree import FolderFiles, path_of
from ssd34.images.read import SUFFIXES, read_image_size

FORMATS = ("coco", "voc", "yolo")


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
        format: one of `FORMATS`.
        link: with hard links to the pictures instead of copies.
        ignored_as_objects: where a format has no flags, crowd and difficult boxes become ordinary
            ones; else they are left out.
    """

    format: str
    link: bool = False
    ignored_as_objects: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"expected one of {', '.join(FORMATS)}, got {self.format!r}")


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        splits: name, pictures and boxes of each.
        losses: what changed, and how often.
        problems: pictures that were left out.
    """

    format: str
    splits: tuple[tuple[str, int, int], ...]
    losses: dict[Dropped, int]
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "format": self.format,
            "splits": {n: {"pictures": p, "boxes": b} for n, p, b in self.splits},
            "changed": [
                {"what": loss.name.lower(), "count": count, "reason": str(loss)}
                for loss, count in self.losses.items()
            ],
            "left_out": [str(problem) for problem in self.problems],
        }


def check_destination(
    destination: Path, options: Options, datasets: Sequence[Dataset] = ()
) -> None:
    """What `convert` refuses before it reads a picture; for who has long work to do before it.

    Raises:
        OptionError: the destination is there and no empty folder, or the current one, the folder
            for it is not there, or pictures in a zip are to be linked.
        MissingExtraError: the format needs a package that is not installed.
    """
    if os.path.lexists(destination):
        if not _is_empty(destination):
            raise OptionError(f"{destination}: exists already; choose a folder that does not")
        if destination.samefile(os.curdir):
            raise OptionError(
                f"{destination}: the current folder, which would be another one afterwards; choose "
                "a folder in it"
            )
    if not destination.absolute().parent.is_dir():
        raise OptionError(f"{destination.absolute().parent}: no such folder; create it first")
    if options.format == "yolo":
        require("yaml", extra="data", why="writing a YOLO data set")
    for dataset in datasets:
        if options.link and not isinstance(dataset.images, FolderFiles):
            raise OptionError(
                f"{dataset.name}: pictures in a zip cannot be linked; leave --link out"
            )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def convert(
    sources: Sequence[tuple[str, Dataset]],
    destination: Path,
    options: Options,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Conversion:
    """Write a data set in another format, whole or not at all, into a folder that does not exist or
    is empty. Each source is the name of a split, "" where there is just one, and its pictures;
    `progress` is called with the number of pictures done.

    Raises:
        OptionError, MissingExtraError: as `check_destination`; another process writes there, or
            pictures cannot be linked from there.
        DatasetError: the splits cannot be in one data set of this format.
    """
    check_destination(destination, options, [dataset for _, dataset in sources])
    losses: Counter[Dropped] = Counter()
    problems: list[Problem] = []
    named = name_splits(sources, options.format, losses)
    splits: list[Dataset] = []
    done = 0
    with file_locked(destination.absolute()), folder_written_whole(destination) as folder:
        places = Places(options.format)
        for name, dataset in named:
            written: list[Sample] = []
            for sample in dataset.samples:
                kept, lost = writers.drop_unholdable(
                    sample, options.format, ignored_as_objects=options.ignored_as_objects
                )
                path, new = places.of(dataset, name, kept)
                try:
                    if new:
                        place(dataset, sample, folder / path_of(path), link=options.link)
                    written.append(dataclasses.replace(kept, file_name=path))
                    losses += lost
                except ImageError as error:
                    places.forget(dataset, name, kept)
                    problems.append(Problem.of(sample, error))
                done += 1
                progress(done)
            if not written:
                raise DatasetError(
                    f"{dataset.name}: no picture could be read; first problem: {problems[0]}"
                )
            splits.append(dataclasses.replace(dataset, name=name, samples=tuple(written)))
            losses += writers.count_renumbered(splits[-1], dataset, options.format)
        _WRITERS[options.format](folder, splits)
    counts = tuple((s.name, len(s), sum(len(p.boxes) for p in s.samples)) for s in splits)
    changed = {loss: losses[loss] for loss in Dropped if losses[loss]}
    return Conversion(options.format, counts, changed, tuple(problems))


_WRITERS = {"coco": writers.write_coco, "voc": writers.write_voc, "yolo": writers.write_yolo}


UNDIVIDED = "train"
"""What a source without splits is called where a format wants a name."""


def name_splits(
    sources: Sequence[tuple[str, Dataset]], form: str, losses: Counter[Dropped]
) -> list[tuple[str, Dataset]]:
    """The splits, at least one, under names that the format can hold, all with the same classes."""
    assert sources
    if form == "coco" and [given for given, _ in sources] == [WHOLE]:
        return list(sources)
    named: list[tuple[str, Dataset]] = []
    for given, dataset in sources:
        name = given or UNDIVIDED
        if form == "yolo":
            name = _yolo_name(name)
            losses[Dropped.SPLIT_NAMES] += given not in ("", name)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise OptionError(f"split {name!r}: expected letters, digits, '_', '-' and '.'")
        if name in dict(named):
            raise OptionError(
                f"two splits would be called {name!r}; choose with --split, or name them: "
                f"{YOLO_SPLITS[1]}=PATH"
            )
        named.append((name, dataset))
    if form == "coco":
        return named
    labels = named[0][1].labels
    _check_names(labels)
    return [(name, _with_labels(dataset, labels)) for name, dataset in named]


def _yolo_name(name: str) -> str:
    """YOLO has three splits; others are known by how they begin, as val2017 and valid."""
    for split in YOLO_SPLITS:
        if name.lower().startswith(split):
            return split
    raise OptionError(
        f"YOLO has the splits {', '.join(YOLO_SPLITS)}, got {name!r}; name it: val=PATH@{name}"
    )


def _check_names(labels: LabelSet) -> None:
    """Class names that are lines of a file and text of XML."""
    for name in labels.names:
        if not name.isprintable() or name != name.strip() or not name:
            raise DatasetError(
                f"class name {name!r}: expected text without line breaks and blanks at the ends; "
                "change it with --rename"
            )


def _with_labels(dataset: Dataset, labels: LabelSet) -> Dataset:
    """The same data set, its classes numbered as another's."""
    if dataset.labels.names == labels.names:
        return dataset
    if set(dataset.labels.names) != set(labels.names):
        other = sorted(set(dataset.labels.names) ^ set(labels.names))
        raise DatasetError(
            f"{dataset.name}: has other classes than the first split ({', '.join(other[:4])}); "
            "splits of one data set must label the same classes: convert them one by one, or "
            "use --rename"
        )
    table = dataset.labels_in(labels)
    samples = (dataclasses.replace(s, labels=table[s.labels]) for s in dataset.samples)
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))


class Places:
    """Where every picture goes, under a name of its own: VOC's splits share pictures, others have a
    folder each."""

    def __init__(self, form: str) -> None:
        self.form = form
        self._taken: set[str] = set()
        self._last: defaultdict[str, int] = defaultdict(lambda: 1)  # number of a name
        self._known: dict[tuple[str, str, str], tuple[str, Sample]] = {}

    def of(self, dataset: Dataset, split: str, sample: Sample) -> tuple[str, bool]:
        """The path, and whether the picture is not there yet."""
        folder = PICTURES if self.form == "voc" else writers.name_folder(split)
        key = self._key(dataset, split, sample)
        known = self._known.get(key)
        if known is not None and (self.form == "coco" or _same_boxes(known[1], sample)):
            return known[0], False
        path = self._name(folder, sample.file_name)
        self._known[key] = path, sample
        return path, True

    def forget(self, dataset: Dataset, split: str, sample: Sample) -> None:
        """The picture could not be read."""
        self._known.pop(self._key(dataset, split, sample), None)

    def _name(self, folder: str, file_name: str) -> str:
        """The path in a folder of a picture that is called `file_name` now; taken from now on."""
        parts = [_safe(part) for part in file_name.replace("\\", "/").split("/")]
        # VOC has no folders: those of a name become part of it.
        joined = ("_" if self.form == "voc" else "/").join(part for part in parts if part)
        path = candidate = PurePosixPath(joined or "_")
        wanted = taken = self._as_taken(folder, path)
        while taken in self._taken:
            self._last[wanted] += 1
            candidate = path.with_name(f"{path.stem}-{self._last[wanted]}{path.suffix}")
            taken = self._as_taken(folder, candidate)
        self._taken.add(taken)
        return f"{folder}/{candidate}"

    def _as_taken(self, folder: str, path: PurePosixPath) -> str:
        # Some file systems do not tell a from A, and label files have another ending.
        return f"{folder}/{path if self.form == 'coco' else path.with_suffix('')}".casefold()

    def _key(self, dataset: Dataset, split: str, sample: Sample) -> tuple[str, str, str]:
        return ("" if self.form == "voc" else split, str(dataset.images), sample.file_name)


_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"|?*]')
"""What some file system, a list of lines or XML cannot hold."""


def _safe(part: str) -> str:
    """One folder or file name; no dots that lead up or hide, no blanks at the ends."""
    if part in ("", ".", ".."):
        return ""
    part = _UNSAFE.sub("_", part).strip()
    return f"_{part[1:]}" if part.startswith(".") else part


def _same_boxes(a: Sample, b: Sample) -> bool:
    columns = ((a.boxes, b.boxes), (a.labels, b.labels), (a.ignored, b.ignored))
    return all(np.array_equal(one, other) for one, other in columns)


def place(dataset: Dataset, sample: Sample, path: Path, *, link: bool) -> None:
    """Copy or link a picture; refuse one that its boxes would not fit."""
    name, images = sample.file_name, dataset.images
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise ImageError(f"{name}: has no ending of a picture; rename it")
    if not link:
        data = images.read_bytes(name)
        width, height = read_image_size(io.BytesIO(data), name)
        check_size(sample, width=width, height=height)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return
    assert isinstance(images, FolderFiles)
    width, height = read_size(images, name)
    check_size(sample, width=width, height=height)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(images.path(name))
    except OSError as error:
        raise OptionError(
            f"{images.path(name)}: cannot be linked from {path.parent} ({error.strerror}); leave "
            "--link out"
        ) from None
