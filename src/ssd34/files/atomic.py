"""Whole files and folders or none: write beside, then rename. Errors name the file and its lack."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd34.errors import Ssd34Error

_LONGEST = 200


@contextmanager
def written_whole(path: Path, *, needs: int | None = None) -> Iterator[Path]:
    """A path to write, of the same name, that takes the place of `path` when the block ends without
    error.

    It lies in a hidden folder of its own beside `path`, because some libraries write through a
    temporary file beside the one that they are told; `remove_parts` removes what a killed process
    leaves. Where `path` is a link, all this goes for the file that it leads to. A device or a pipe
    is written to directly. OSError where it cannot be written, whatever the library in the block
    says of it; for that of a full disk it `needs` so many bytes, where they are known.
    """
    if is_special(path):
        with naming(path, needs=needs):
            yield path
        return
    target = Path(os.path.realpath(path))
    try:
        folder = _folder_beside(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    temporary = folder / path.name
    try:
        with naming(path, needs=needs, part=temporary):
            yield temporary
            _set_rights(temporary, 0o666)
            temporary.replace(target)
    finally:
        shutil.rmtree(folder)


def _folder_beside(target: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=_beside(target.name), suffix=".part", dir=target.parent))


def _beside(name: str) -> str:
    """What the hidden folder of a file begins with: a name has 255 bytes at most."""
    return f".{os.fsdecode(os.fsencode(name)[:_LONGEST])}."


def _set_rights(path: Path, rights: int) -> None:
    """As for a new file; temporary ones are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(rights & ~mask)


def is_special(path: Path) -> bool:
    """Whether there is a device, a pipe or a socket, itself or behind a link."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left beside some files while they wrote them."""
    for name in names:
        target = Path(os.path.realpath(folder / name))
        for part in target.parent.glob(f"{glob.escape(_beside(target.name))}*.part"):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without error;
    OSError where `path` exists and is no empty folder, or the folder above cannot be written."""
    path = path.absolute()
    temporary = _folder_beside(path)
    try:
        with naming(path, part=temporary):
            yield temporary
        _set_rights(temporary, 0o777)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    with written_whole(path, needs=len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, values: object) -> None:
    """Write a whole JSON file, indented, or none."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def compute_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = (*_FULL, errno.EFBIG, errno.EROFS, errno.EIO)
_NUMBER = re.compile(r"(?:os error|\[Errno) (\d+)")
_PROBE = 1 << 16


@contextmanager
def naming(path: Path, *, needs: int | None = None, part: Path | None = None) -> Iterator[None]:
    """Within it what keeps a file from being written is an `OSError` that names it.

    Libraries have errors of their own for a full disk, and Python's do not name a file that is
    open. Errors of anything else come out as they are.

    Args:
        path: the file, or a folder of files, as its user knows it.
        needs: bytes of it, where that is known, for how much room is needed and free.
        part: the temporary folder that is to become `path`, or the temporary file of the same name,
            alone in a folder of its own.
    """
    try:
        yield
    except (Ssd34Error, ConnectionError, TimeoutError):
        raise
    except Exception as error:
        alone = part is not None and part.name == path.name
        scope = part.parent if part and alone else part
        # Of a copy the second file is the one that is written.
        other = getattr(error, "filename2", None) or getattr(error, "filename", None)
        place = _place(other, path, scope, alone=alone)
        number = _number(error, scope or path.absolute().parent)
        if place is None or number is None:
            raise
        text = os.strerror(number) + (_room(path, needs, scope) if number in _FULL else "")
        raise OSError(number, text, str(place)) from error


def _place(name: object, path: Path, scope: Path | None, *, alone: bool) -> Path | None:
    """What an error is about, as its user knows it; None: another file."""
    if not isinstance(name, str | bytes):
        return path
    named = Path(os.fsdecode(name))
    if scope is not None and named.is_relative_to(scope):
        return path if alone else path / named.relative_to(scope)
    return path if named == path else None


def _number(error: Exception, folder: Path) -> int | None:
    """Which error of the disk it is; None: none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if (found := _NUMBER.search(text)) and int(found[1]) in _DISK:
        return int(found[1])
    for number in _DISK:
        if os.strerror(number) in text:
            return number
    try:  # Some say nothing: what happens to another file there?
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
    except OSError as told:
        return told.errno if told.errno in _DISK else None
    return None


def _room(path: Path, needs: int | None, scope: Path | None) -> str:
    """How much is needed and free, where the disk can tell; what is given up counts as free."""
    try:
        free = shutil.disk_usage(path.absolute().parent).free
        if scope is not None:
            free += sum(file.stat().st_size for file in scope.rglob("*") if file.is_file())
    except OSError:
        return ""
    if needs is None:
        return f" ({free / 1e6:.1f} MB free, more needed)"
    # Else it is a quota, or the number of files.
    return f" ({needs / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)" if needs > free else ""
