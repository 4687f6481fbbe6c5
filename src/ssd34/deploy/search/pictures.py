"""Which pictures calibrate and which are measured on: never the same ones, unless so asked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.datasets.open import find_dataset, open_dataset, split_path
from ssd34.errors import DatasetError, ImageError
from ssd34.images.read import read_image
from ssd34.images.sources import find_pictures

Picture = NDArray[np.uint8]
EVERY = 3
"""Where one data set serves both, every third picture calibrates."""


@dataclass(frozen=True)
class CalibrationPicture:
    """A picture before it is read: its file's name, what decodes it (ImageError), and what gives
    the file's bytes (ImageError or OSError)."""

    name: str
    read: Callable[[], Picture]
    content: Callable[[], bytes]

    def digest(self) -> str | None:
        """The file's SHA-256, hexadecimal; None: it cannot be read."""
        try:
            return hashlib.sha256(self.content()).hexdigest()
        except (ImageError, OSError):
            return None


@dataclass(frozen=True)
class CalibrationPictures:
    """Pictures for calibration, and where they come from, for messages and the proof."""

    name: str
    files: tuple[CalibrationPicture, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, problem: Callable[[Problem], None] = lambda _: None) -> Iterator[Picture]:
        """Each picture, (H, W, 3) uint8 RGB; unreadable ones are reported and left out."""
        for file in self.files:
            try:
                picture = file.read()
            except ImageError as error:
                reason = str(error).split(f"{file.name}: ", 1)[-1]  # in a folder after its path
                problem(Problem(file.name, reason))
                continue
            yield picture

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the files in order. Nothing is decoded for it."""
        digest = hashlib.sha256(b"ssd34-calibration-pictures-2")
        for file in self.files:
            digest.update((file.digest() or "unreadable").encode())
        return digest.hexdigest()

    def shared_with(self, dataset: Dataset) -> int:
        """How many are also in a data set: the same file under the same name."""
        ours = [(Path(file.name).name, file) for file in self.files]
        names = {name for name, _ in ours}
        # A name may come in several folders: each picture of that name is one to compare with.
        theirs: dict[str, set[str | None]] = {}
        for file in _files(dataset, dataset.samples):
            if (name := Path(file.name).name) in names:
                theirs.setdefault(name, set()).add(file.digest())
        digests = ((file.digest(), theirs[name]) for name, file in ours if name in theirs)
        return sum(digest is not None and digest in found for digest, found in digests)


def count_seen(
    measured: Dataset, seen: Sequence[Dataset], *, progress: Callable[[int], None] = lambda _: None
) -> int:
    """How many of the `measured` pictures are also in the `seen` data sets, of which the progress
    counts the pictures read: the same file, under any name. Where a file cannot be read, as beside
    annotations alone, its name counts."""
    names: set[str] = set()
    digests: set[str] = set()
    every = (file for dataset in seen for file in _files(dataset, dataset.samples))
    for done, file in enumerate(every, start=1):
        if digest := file.digest():
            digests.add(digest)
        else:
            names.add(Path(file.name).name)
        progress(done)
    return sum(
        Path(file.name).name in names or file.digest() in digests
        for file in _files(measured, measured.samples)
    )


def from_dataset(dataset: Dataset, *, pictures: int) -> CalibrationPictures:
    """At most so many pictures of a data set, spread evenly over it."""
    return CalibrationPictures(dataset.name, _files(dataset, _spread(dataset, pictures)))


def from_path(path: str, *, pictures: int) -> CalibrationPictures:
    """At most so many pictures of a data set in any form, or of a folder of picture files;
    DatasetError, ImageError: it is neither."""
    source, _ = split_path(path)
    if Path(source).is_dir():
        try:
            find_dataset(source)
        except DatasetError:
            return from_folder(source, pictures=pictures)
    return from_dataset(open_dataset(path), pictures=pictures)


def from_folder(folder: str, *, pictures: int) -> CalibrationPictures:
    """At most so many picture files of a folder, spread evenly over it; ImageError: there is
    none."""
    found = find_pictures([folder])
    chosen = [found[i] for i in _even(len(found), pictures)]
    return CalibrationPictures(
        Path(folder).resolve().name,
        tuple(
            CalibrationPicture(str(p.relative), partial(read_image, p.path), p.path.read_bytes)
            for p in chosen
        ),
    )


def split(dataset: Dataset, *, pictures: int) -> tuple[CalibrationPictures, Dataset]:
    """Part a data set: every third picture, at most so many, calibrates; the others are measured.
    DatasetError: it has fewer than three pictures."""
    if len(dataset) < EVERY:
        raise DatasetError(
            f"{dataset.name}: expected at least {EVERY} pictures, got {len(dataset)}: some "
            "calibrate, the others are measured on; give --calibration with pictures of its own"
        )
    thirds = dataclasses.replace(dataset, samples=dataset.samples[::EVERY])
    calibrating = _spread(thirds, pictures)
    taken = {id(sample) for sample in calibrating}
    rest = tuple(sample for sample in dataset.samples if id(sample) not in taken)
    return (
        CalibrationPictures(dataset.name, _files(dataset, calibrating)),
        dataclasses.replace(dataset, samples=rest),
    )


def _files(dataset: Dataset, samples: Sequence[Sample]) -> tuple[CalibrationPicture, ...]:
    return tuple(
        CalibrationPicture(
            sample.file_name,
            partial(dataset.read, sample),
            partial(dataset.images.read_bytes, sample.file_name),
        )
        for sample in samples
    )


def _spread(dataset: Dataset, wanted: int) -> list[Sample]:
    return [dataset.samples[i] for i in _even(len(dataset), wanted)]


def _even(count: int, wanted: int) -> list[int]:
    """So many of 0 .. count - 1, in equal steps."""
    return [round(i) for i in np.linspace(0, count - 1, min(count, wanted))]
