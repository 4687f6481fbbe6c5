"""The list of a job's pictures, and what reads them in a worker."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import ImageError
from ssd34.files import tree
from ssd34.files.tree import Files, FolderFiles
from ssd34.images.read import SUFFIXES


class Picture(NamedTuple):
    """One picture of a job.

    Attributes:
        id: COCO's image id, or the number that stands in every name, or its number from 1.
        name: its path below the source, with forward slashes.
        place: where it is, as its store knows it: offset and bytes in a tar; file and row of
            Parquet.
    """

    id: int
    name: str
    place: tuple[int, int]


Loader = Callable[[], bytes]
"""Gives a picture file's bytes, or raises `ImageError`."""


class Store:
    """Reads pictures. It pickles, and every worker has its own.

    Attributes:
        readers: pictures that are best read at the same time.
    """

    readers = 1

    def read(self, picture: Picture) -> bytes:
        """A picture file's bytes; ImageError where it cannot be read."""
        raise NotImplementedError

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        """A call for each picture, in order, that may be made in another thread."""
        return (partial(self.read, picture) for picture in pictures)


@dataclass(frozen=True)
class NamedStore(Store):
    """Pictures below a folder or in a zip, by their names."""

    files: Files

    def read(self, picture: Picture) -> bytes:
        """See `Files.read_bytes`."""
        return self.files.read_bytes(picture.name)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a job.

    Attributes:
        names: (N,) paths below the source.
        ids: (N,) int64, see `Picture`.
        places: (N, 2) int64, see `Picture`.
        sha256: of names, ids, and what tells that a file was changed: its size and its time, the
            CRC in a zip, the tag of a URL.
    """

    names: Sequence[str]
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    sha256: str
    store: Store

    def __len__(self) -> int:
        return len(self.names)

    def some(self, start: int, stop: int) -> list[Picture]:
        """The pictures from number `start`, from 0, to before number `stop`."""
        places = map(tuple, self.places[start:stop].tolist())
        return list(map(Picture, self.ids[start:stop].tolist(), self.names[start:stop], places))


def list_pictures(
    store: Store,
    source: str,
    names: Sequence[str],
    stamps: Iterable[object],
    *,
    ids: Sequence[int] | None = None,
    places: Sequence[tuple[int, int]] | None = None,
) -> Pictures:
    """Pictures from what is known of each: see `Pictures`; `stamps` change with them and are
    JSON-ready. ImageError, which names the source, where there are none."""
    if not names:
        endings = ", ".join(sorted(SUFFIXES))
        raise ImageError(f"{source}: holds no pictures (looked for files ending in {endings})")
    numbers = np.array(tree.number_files(names) if ids is None else ids, np.int64)
    digest = hashlib.sha256()
    for number, name, stamp in zip(numbers.tolist(), names, stamps, strict=True):
        digest.update(json.dumps([number, name, stamp]).encode())
    where = np.array(places, np.int64) if places else np.zeros((len(names), 2), np.int64)
    return Pictures(names, numbers, where, digest.hexdigest(), store)


def list_in_folder(
    files: FolderFiles, names: Sequence[str], source: str, *, ids: Sequence[int] | None = None
) -> Pictures:
    """Pictures below a folder by their names; those that lead out are refused when they are read.
    ImageError, which names the source, where there are none."""
    stamps = (
        stamp_of(files.root / tree.path_of(name)) if tree.normalise_name(name) else None
        for name in names
    )
    return list_pictures(NamedStore(files), source, names, stamps, ids=ids)


def stamp_of(path: Path) -> list[int] | None:
    """What changes with a file; None where it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def is_picture_name(name: str) -> bool:
    """Whether a file of this name, not hidden, is taken for a picture."""
    base = posixpath.basename(name)
    return posixpath.splitext(base)[1].lower() in SUFFIXES and not base.startswith(".")


def check_bytes(name: str, size: int) -> None:
    """ImageError where a file of so many bytes is too large."""
    if size > tree.MAX_FILE_BYTES:
        raise ImageError(f"{name}: larger than {tree.MAX_FILE_BYTES >> 20} MiB; shrink it")
