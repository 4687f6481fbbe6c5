"""One process at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd34.errors import DownloadError

_POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def held(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file at `path` within the block.

    The system gives the lock back when the process ends, however it ends. The empty file stays:
    to delete it would let two processes hold two files of the same name.

    Args:
        path: the lock file, made if it is missing.
        waiting: called ten times a second while another process holds it.

    Raises:
        DownloadError: this file system has no locks.
        OSError: the file cannot be made.
    """
    with path.open("ab") as file:
        try:
            while not _lock(file.fileno()):
                waiting()
                time.sleep(_POLL)
        except OSError as error:
            raise DownloadError(
                f"{path}: cannot be locked ({error.strerror}); choose a folder on another disk "
                "(SSD34_HOME, --output)"
            ) from None
        yield
