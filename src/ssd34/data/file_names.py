"""What pictures are called: numbers by their names, and safe, unique names in a new place."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"|?*]')
"""What some file system, a list of lines or XML cannot hold."""


def text_of(path: str | os.PathLike[str]) -> str:
    """A path as text for people and files: its bytes are UTF-8, whatever the locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_of(text: str) -> str:
    """The inverse of `text_of`: what a file is called in this locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


_DIGITS = 15
"""Of the longest number that counts: far below what any file format holds exactly."""


def numbers_of(names: Sequence[str]) -> list[int]:
    """A number for each of some files: the one that names it, as in COCO's and VOC's own files;
    where that is not so for every file, or not unique, they count from 1."""
    stems = [PurePosixPath(name).stem for name in names]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= _DIGITS for stem in stems):
        named = [int(stem) for stem in stems]
        if len(set(named)) == len(named):
            return named
    return list(range(1, len(stems) + 1))


class FileNames:
    """Gives every picture a name of its own.

    Attributes:
        flat: no folders; those of a name become part of it.
        by_stem: names that differ in their ending only count as one, as label files have the
            same name with another ending.
    """

    def __init__(self, *, flat: bool, by_stem: bool) -> None:
        self.flat = flat
        self.by_stem = by_stem
        self._taken: set[str] = set()

    def name(self, folder: str, file_name: str) -> str:
        """The path of a picture, taken from now on.

        Args:
            folder: where it shall lie.
            file_name: what it is called where it is now.
        """
        parts = [_safe(part) for part in file_name.replace("\\", "/").split("/")]
        parts = [part for part in parts if part]
        path = PurePosixPath("_".join(parts) if self.flat else "/".join(parts) or "_")
        candidate, number = path, 2
        while self._key(folder, candidate) in self._taken:
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
            number += 1
        self._taken.add(self._key(folder, candidate))
        return f"{folder}/{candidate}"

    def _key(self, folder: str, path: PurePosixPath) -> str:
        # Some file systems do not tell a from A.
        return f"{folder}/{path.with_suffix('') if self.by_stem else path}".casefold()


def _safe(part: str) -> str:
    """One folder or file name; no dots that lead up or hide, no blanks at the ends."""
    if part in ("", ".", ".."):
        return ""
    part = _UNSAFE.sub("_", part).strip()
    return f"_{part[1:]}" if part.startswith(".") else part
