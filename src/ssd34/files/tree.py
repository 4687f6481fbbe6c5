"""The files of a data set: below a folder or inside a zip. Names never lead out of either.

Names are relative, with forward slashes; "" is the folder itself.
"""

from __future__ import annotations

import logging
import os
import posixpath
import threading
import weakref
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, cast

from ssd34.errors import DatasetError, ImageError

MAX_FILE_BYTES = 256 * 1024 * 1024
"""A picture file or archive member larger than this is refused, unread."""

BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError
)  # fmt: skip
"""What zipfile raises for archives that are damaged, encrypted or packed in an unknown way."""

_APPLE = "__MACOSX"
"""A folder that macOS puts into archives beside what was packed."""

_SAYS_UTF8 = 0x800
"""The general purpose flag of a zip's member whose name is UTF-8; else it is code page 437."""


log = logging.getLogger("ssd34.files")


def check_folder(folder: Path) -> None:
    """ImageError for a folder to search that may not be read."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ImageError(f"{folder}: a folder that may not be read; check its rights")


def warn_of_unreadable(error: OSError) -> None:
    """Log a folder that a listing has to leave out, such as a disk's ``lost+found``."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        _warn_once(f"left out {text_of(error.filename)}: {error.strerror}")


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


class Files(Protocol):
    """Files below one place."""

    @property
    def leads_out(self) -> bool:
        """Whether the place itself is behind a link that leads out of the data set's folder."""
        return False

    def read_bytes(self, name: str, *, limit: int | None = None) -> bytes:
        """The file's bytes; ImageError if it is missing, unreadable or larger than the limit in
        bytes, `MAX_FILE_BYTES` where none is given."""

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """The file as a stream, to look at its beginning; ImageError if it is missing."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def is_lost_link(self, name: str) -> bool:  # noqa: ARG002
        """Whether there is a link of that name, which leads out or to nothing."""
        return False

    def is_folder(self, name: str) -> bool:
        """Whether there is such a folder."""

    def names(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """The files in a folder, or also in those below it, sorted; without hidden ones."""

    def folders(self, folder: str = "") -> list[str]:
        """The folders in a folder, sorted; without hidden ones."""

    def below(self, folder: str) -> Files:
        """The files below a folder."""

    def inside(self, path: str) -> str | None:
        """A path that a file of the data set gives, absolute or relative, as a name; None where
        it leads out."""


def read_annotations(files: Files, name: str, *, limit: int) -> bytes:
    """An annotation file; DatasetError if it is missing, unreadable or over `limit` bytes."""
    try:
        return files.read_bytes(name, limit=limit)
    except ImageError as error:
        reason = str(error).removesuffix("; add it or take its annotations out")
        raise DatasetError(f"{reason}; expected an annotation file") from None


def read_lines(files: Files, name: str, *, limit: int) -> list[str]:
    """The lines of a UTF-8 annotation file, with or without a byte order mark; DatasetError as
    `read_annotations`, or where it is not text."""
    try:
        return read_annotations(files, name, limit=limit).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name}: not UTF-8 text ({error.reason}); save it as UTF-8") from None


def normalise_name(name: str) -> str | None:
    """A relative name without `.` and `..`; None where it leads out."""
    clean = posixpath.normpath(name.replace("\\", "/"))
    if clean.startswith(("/", "../")) or clean == "..":
        return None
    return "" if clean == "." else clean


class FolderFiles(Files):
    """Files below a folder; names that lead out of it are refused, and links, but for such to files
    in the data set's folder, if it lies in one."""

    def __init__(self, root: Path, *, around: Path | None = None) -> None:
        self.root = root
        self._around = root if around is None else around

    def __str__(self) -> str:
        return str(self.root)

    @property
    def leads_out(self) -> bool:
        return os.path.isdir(self.root) and self._path("") is None

    @cached_property
    def _is_outside(self) -> bool:
        """Whether the folder leads out; looked at once, not for each file."""
        return not _is_below(os.path.realpath(self.root), os.path.realpath(self._around))

    def path(self, name: str) -> Path:
        """Where a file is; ImageError if it is missing."""
        path = self._path(name)
        if path is None:
            raise ImageError(f"{name}: the name leads out of {self.root}; correct it")
        if not os.path.isfile(path):
            raise ImageError(f"{name}: missing in {self.root}; add it or take its annotations out")
        return path

    def read_bytes(self, name: str, *, limit: int | None = None) -> bytes:
        path = self.path(name)
        limit = MAX_FILE_BYTES if limit is None else limit
        try:
            if path.stat().st_size > limit:
                raise ImageError(f"{name}: larger than {limit >> 20} MiB; shrink it")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{name}: {error.strerror}; check its rights") from None

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        try:
            stream = self.path(name).open("rb")
        except OSError as error:
            raise ImageError(f"{name}: {error.strerror}; check its rights") from None
        with stream:
            yield stream

    def exists(self, name: str) -> bool:
        path = self._path(name)
        return path is not None and os.path.isfile(path)

    def is_lost_link(self, name: str) -> bool:
        inside = normalise_name(name)
        if not inside or self.exists(name):
            return False
        try:
            return (self.root / path_of(inside)).is_symlink()
        except (OSError, ValueError):  # a name that no file can have
            return False

    def is_folder(self, name: str) -> bool:
        path = self._path(name)
        return path is not None and os.path.isdir(path)

    def names(self, folder: str = "", *, deep: bool = False) -> list[str]:
        return sorted(self._walk(folder, deep=deep))

    def _walk(self, folder: str, *, deep: bool) -> Iterator[str]:
        start = self._path(folder)
        if start is None:
            return
        linked: set[str] = set()
        for place, folders, files in os.walk(start, followlinks=True, onerror=warn_of_unreadable):
            folders[:] = [
                name for name in folders if deep and not name.startswith(".")
                and self._is_entered(place, name, linked)
            ]  # fmt: skip
            below = text_of(os.path.relpath(place, start)).replace(os.sep, "/")
            for name in map(text_of, files):
                if not name.startswith("."):
                    yield posixpath.normpath(posixpath.join(folder, below, name))

    def _is_entered(self, place: str, name: str, linked: set[str]) -> bool:
        """Whether a listing enters a folder: of links only those that stay inside, each target once
        and not from below itself."""
        path = os.path.join(place, name)
        if not Path(path).is_symlink():
            return True
        real = os.path.realpath(path)
        inside = _is_below(real, os.path.realpath(self.root))
        if not inside or real in linked or _is_below(os.path.realpath(place), real):
            return False
        linked.add(real)
        return True

    def folders(self, folder: str = "") -> list[str]:
        start = self._path(folder)
        try:
            found = sorted(text_of(p.name) for p in start.iterdir()) if start is not None else []
        except OSError:
            return []
        names = [posixpath.join(folder, name) for name in found if not name.startswith(".")]
        return [name for name in names if self.is_folder(name)]

    def below(self, folder: str) -> FolderFiles:
        return FolderFiles(self.root / path_of(folder), around=self._around)

    def inside(self, path: str) -> str | None:
        if not Path(path).is_absolute():
            return normalise_name(path)
        try:
            there = os.path.realpath(path_of(path))
            return normalise_name(text_of(os.path.relpath(there, os.path.realpath(self.root))))
        except ValueError:  # another drive, a null byte
            return None

    def _path(self, name: str) -> Path | None:
        try:
            root = os.path.realpath(self.root)
            place = os.path.join(root, path_of(name.replace("\\", "/")))
            path = os.path.realpath(place)
            inside = not self._is_outside and (
                _is_below(path, root) or self._is_linked_inside(place, path, root)
            )
        except ValueError:  # another drive, a null byte, a character that no file name can have
            return None
        return Path(path) if inside else None

    def _is_linked_inside(self, place: str, path: str, root: str) -> bool:
        """Whether a place below the folder is a link to a file elsewhere in the data set's."""
        return (
            os.path.isfile(path)
            and _is_below(path, os.path.realpath(self._around))
            and _is_below(os.path.realpath(Path(place).parent), root)
        )


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


class _Zip:
    """A zip, opened once in each process that uses it, and its members by name: with forward
    slashes and in UTF-8, whatever program packed it; folders end in a slash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._open: tuple[int, zipfile.ZipFile, dict[str, zipfile.ZipInfo]] | None = None

    def open(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        # A forked process must not share the parent's file position.
        if self._open is None or self._open[0] != os.getpid():
            archive = zipfile.ZipFile(self.path)
            # Its own way to close may come after that of its file, where both go in a circle.
            weakref.finalize(self, archive.close)
            self._open = (os.getpid(), archive, dict(_named_members(archive)))
        return self._open[1:]


def _named_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for member in archive.infolist():
        text = member.filename.replace("\\", "/")
        if not member.flag_bits & _SAYS_UTF8:
            with suppress(UnicodeError):  # macOS writes UTF-8 and does not say so
                text = text.encode("cp437").decode("utf-8")
        if name := normalise_name(text.lstrip("/")):
            yield name + "/" * text.endswith("/"), member


class ZipFiles(Files):
    """Files inside a zip archive, below a prefix; links in it are not followed. Safe to use after a
    fork and from threads."""

    def __init__(self, archive: Path | _Zip, prefix: str = "") -> None:
        self._zip = archive if isinstance(archive, _Zip) else _Zip(archive)
        self.archive = self._zip.path
        self.prefix = prefix

    def __str__(self) -> str:
        return f"{self.archive}:{self.prefix}" if self.prefix else str(self.archive)

    def member(self, name: str) -> zipfile.ZipInfo:
        """What the archive says of a file; KeyError if it is missing."""
        clean = normalise_name(name)
        if not clean:
            raise KeyError(name)
        return self._members()[f"{self.prefix}{clean}"]

    def read_bytes(self, name: str, *, limit: int | None = None) -> bytes:
        limit = MAX_FILE_BYTES if limit is None else limit
        with self._explained(name):
            member = self.member(name)
            if member.file_size > limit:
                raise ImageError(f"{name}: larger than {limit >> 20} MiB; shrink it")
            return self._zip.open()[0].read(member)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        with self._explained(name), self._zip.open()[0].open(self.member(name)) as stream:
            yield cast(BinaryIO, stream)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            with self._zip.lock:
                yield
        except KeyError:
            raise ImageError(
                f"{name}: missing in {self.archive}; add it or take its annotations out"
            ) from None
        except BROKEN_ZIP as error:
            raise ImageError(f"{name}: broken in {self.archive} ({error})") from None

    def exists(self, name: str) -> bool:
        try:
            return bool(self.member(name))
        except KeyError:
            return False

    def is_folder(self, name: str) -> bool:
        start = self.prefix + (f"{name}/" if name else "")
        return any(member.startswith(start) for member in self._members())

    def names(self, folder: str = "", *, deep: bool = False) -> list[str]:
        return sorted(
            name for name in self._within(folder) if not name.endswith("/")
            and (deep or "/" not in name[len(folder) :].lstrip("/"))
        )  # fmt: skip

    def folders(self, folder: str = "") -> list[str]:
        first = {name[len(folder) :].lstrip("/").split("/")[0] for name in self._within(folder)
                 if "/" in name[len(folder) :].lstrip("/")}  # fmt: skip
        return sorted(posixpath.join(folder, name) for name in first)

    def _within(self, folder: str) -> Iterator[str]:
        """Names below a folder, those of folders with a slash at the end; none that is hidden."""
        start = self.prefix + (f"{folder}/" if folder else "")
        for member in self._members():
            if member.startswith(start) and member != start:
                parts = member[len(start) :].split("/")
                if parts[0] != _APPLE and not any(part.startswith(".") for part in parts):
                    yield member[len(self.prefix) :]

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        with self._zip.lock:
            return self._zip.open()[1]

    def below(self, folder: str) -> ZipFiles:
        return ZipFiles(self._zip, f"{self.prefix}{folder}/" if folder else self.prefix)

    def inside(self, path: str) -> str | None:
        return normalise_name(path)

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Path, str]]:
        return ZipFiles, (self.archive, self.prefix)


def text_of(path: str | os.PathLike[str]) -> str:
    """A path as text for people and files: its bytes are UTF-8, whatever the locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_of(text: str) -> str:
    """The inverse of `text_of`: what a file is called in this locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


_DIGITS = 15
"""Of the longest number that counts: far below what any file format holds exactly."""


def number_files(names: Sequence[str]) -> list[int]:
    """A number for each of some files: the one that names it, as in COCO's and VOC's own files;
    where that is not so for every file, or not unique, they count from 1."""
    stems = [PurePosixPath(name).stem for name in names]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= _DIGITS for stem in stems):
        named = [int(stem) for stem in stems]
        if len(set(named)) == len(named):
            return named
    return list(range(1, len(stems) + 1))


def number_names(names: Iterable[Path]) -> list[Path]:
    """Each name, with a number behind its stem where an earlier one is the same."""
    taken: dict[Path, None] = {}
    last: defaultdict[Path, int] = defaultdict(lambda: 1)
    for name in names:
        candidate = name
        while candidate in taken:
            last[name] += 1
            candidate = name.with_stem(f"{name.stem}-{last[name]}")
        taken[candidate] = None
    return [*taken]
