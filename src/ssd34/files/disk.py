"""Errors of writing that name the file and what it lacks, whatever library writes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd34.errors import Ssd34Error

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
        needs: bytes of it, where that is known.
        part: the temporary folder that is to become `path`, or the temporary file of the same name,
            alone in a folder of its own.

    Raises:
        OSError: it could not be written; its text says how much room is needed and free.
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
