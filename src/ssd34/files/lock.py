"""One writer at a time: a lock on what a command writes over minutes."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ssd34.errors import OptionError

IN_FOLDER = ".ssd34.lock"

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_LONGEST = 200
_POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""


@contextmanager
def folder_locked(folder: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """`file_locked` for a folder to write into. It and those above it are made where they are
    missing, and removed again if the block leaves them empty."""
    missing = [f for f in (folder, *folder.absolute().parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / IN_FOLDER, folder, waiting=waiting):
            yield
    finally:
        with suppress(OSError):
            for made in missing:
                made.rmdir()


@contextmanager
def file_locked(path: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keep others from writing a file, or a folder that is not there yet, within the block.

    The lock lies beside it, in a folder that exists. The system gives it back when the process
    ends, however it ends, and processes that this one forks do not hold it. It holds between
    machines where the network file system has locks (NFS has); where there are none, nobody is kept
    out. `waiting` is called ten times a second, with who holds the lock, until it is free.

    Raises:
        OptionError: another process writes it, and `waiting` is None; says which one.
        OSError: the folder cannot be written.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    with _locked(path.with_name(f".{name}.lock"), path, waiting=waiting):
        yield


@contextmanager
def _locked(file: Path, subject: Path, *, waiting: Callable[[str], None] | None) -> Iterator[None]:
    lock = FileLock(file, timeout=0, fallback_to_soft=False, on_acquired=_write_holder)
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            if waiting is None:
                raise OptionError(
                    f"{subject}: {_holder(file)} is writing there; wait until it has ended, or "
                    "choose another place"
                ) from None
            waiting(_holder(file))
            time.sleep(_POLL)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OSError(error.errno, error.strerror, str(subject)) from None
            break
    try:
        yield
    finally:
        # While it is held, so that nobody else's is deleted; who has opened it by now looks again.
        # Windows deletes no open file.
        with suppress(OSError):
            file.unlink()
        lock.release(force=True)


def _write_holder(descriptor: int) -> None:
    text = f"process {os.getpid()} on the host {platform.node()}, since {time.ctime()},"
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())


def _holder(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")[:500]
    except OSError:  # Windows lets nobody read it; or it is free by now
        text = ""
    return "".join(c for c in text if c.isprintable()) or "another process"
