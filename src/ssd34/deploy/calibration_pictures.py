"""Which pictures calibrate and which are measured on: never the same ones, unless so asked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd34.data.dataset import Dataset, Problem, Sample
from ssd34.data.formats import find_dataset, open_dataset, split_path
from ssd34.data.image_io import read_image
from ssd34.errors import DatasetError, ImageError
from ssd34.runtime.sources import find_pictures

Picture = NDArray[np.uint8]
EVERY = 3
"""Where one data set serves both, every third picture calibrates."""


@dataclass(frozen=True)
class CalibrationPictures:
    """Pictures for calibration, read one after the other.

    Attributes:
        name: where they come from, for messages and the proof.
        readers: file name and function of each.
    """

    name: str
    readers: tuple[tuple[str, Callable[[], Picture]], ...]

    def __len__(self) -> int:
        return len(self.readers)

    def read(self, problem: Callable[[Problem], None] = lambda _: None) -> Iterator[Picture]:
        """Each picture, (H, W, 3) uint8 RGB; unreadable ones are reported and left out."""
        for file_name, read in self.readers:
            try:
                picture = read()
            except ImageError as error:
                problem(Problem(file_name, str(error).removeprefix(f"{file_name}: ")))
                continue
            yield picture

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the pictures that can be read, in order."""
        digest = hashlib.sha256(b"ssd34-calibration-pictures-1")
        for picture in self.read():
            digest.update(repr(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).data)
        return digest.hexdigest()

    def shared_with(self, dataset: Dataset) -> int:
        """How many are also in a data set: of the same file name and the same content."""
        samples = {Path(sample.file_name).name: sample for sample in dataset.samples}
        count = 0
        for file_name, read in self.readers:
            if sample := samples.get(Path(file_name).name):
                try:
                    count += np.array_equal(read(), dataset.read(sample))
                except ImageError:  # neither calibrates nor is found anything in
                    continue
        return count


def from_dataset(dataset: Dataset, *, pictures: int) -> CalibrationPictures:
    """At most so many pictures of a data set, spread evenly over it."""
    return CalibrationPictures(
        dataset.name, tuple((s.file_name, _reader(dataset, s)) for s in _spread(dataset, pictures))
    )


def from_path(path: str, *, pictures: int) -> CalibrationPictures:
    """At most so many pictures of a data set in any form, or of a folder of picture files.

    Raises:
        DatasetError, ImageError: it is neither.
    """
    source, _ = split_path(path)
    if Path(source).is_dir():
        try:
            find_dataset(source)
        except DatasetError:
            return from_folder(source, pictures=pictures)
    return from_dataset(open_dataset(path), pictures=pictures)


def from_folder(folder: str, *, pictures: int) -> CalibrationPictures:
    """At most so many picture files of a folder, spread evenly over it.

    Raises:
        ImageError: there is none.
    """
    found = find_pictures([folder])
    chosen = [found[i] for i in _even(len(found), pictures)]
    return CalibrationPictures(
        Path(folder).resolve().name,
        tuple((str(p.relative), lambda p=p: read_image(p.path)) for p in chosen),  # type: ignore[misc]
    )


def split(dataset: Dataset, *, pictures: int) -> tuple[CalibrationPictures, Dataset]:
    """Part a data set: every third picture, at most so many, calibrates; the others are measured.

    Raises:
        DatasetError: it has fewer than three pictures.
    """
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
        CalibrationPictures(
            dataset.name, tuple((s.file_name, _reader(dataset, s)) for s in calibrating)
        ),
        dataclasses.replace(dataset, samples=rest),
    )


def _reader(dataset: Dataset, sample: Sample) -> Callable[[], Picture]:
    return lambda: dataset.read(sample)


def _spread(dataset: Dataset, wanted: int) -> list[Sample]:
    return [dataset.samples[i] for i in _even(len(dataset), wanted)]


def _even(count: int, wanted: int) -> list[int]:
    """So many of 0 .. count - 1, in equal steps."""
    return [round(i) for i in np.linspace(0, count - 1, min(count, wanted))]
