"""Decoded pictures, kept in memory that all worker processes share; and how these are started."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.errors import OptionError
from ssd34.images.reduced import FACTORS

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

_CHANNELS = 3
_EMPTY, _BEING_WRITTEN = -1, -2
_OFFSET, _WIDTH, _HEIGHT = range(3)


def start_workers_server() -> ForkServerContext | SpawnContext:
    """How worker processes are started: never as copies of this one, in which engines and the
    metrics library may have run threads, and which could hang or crash.

    On Linux a server, a new program that has only loaded what workers need, forks them; elsewhere
    each is a new program. The server loads beside the caller: call this early.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssd34.train.examples.loader"])
    resource_tracker.ensure_running()
    # Signals to the whole group are the main process's to handle; the server ends with it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


class PictureCache:
    """Decoded pictures, each at up to four sizes, in one piece of memory of limited length.

    On Linux worker processes share the memory, which has no name and is not in /dev/shm. Elsewhere
    workers do without. First come, first kept: all pictures will be drawn as often, so that making
    room for one by dropping another would gain nothing.
    """

    def __init__(self, pictures: int, limit: int, *, file: int | None = None) -> None:
        """For so many pictures, asked for by number, and `limit` bytes of pixels, taken as they are
        filled; in the memory of another process's cache of the same size, or in its own.
        OptionError where that is more than the system gives."""
        self.pictures, self.limit = pictures, limit
        if limit == 0:
            return
        entries = pictures * len(FACTORS) * 3
        start = (entries + 1) * 8
        new = file is None
        try:
            if new and sys.platform == "linux":
                mmap.mmap(-1, start + limit).close()  # refuses what the machine does not have
                file = os.memfd_create("ssd34-pictures")
                os.ftruncate(file, start + limit)
            memory = mmap.mmap(-1 if file is None else file, start + limit)
        except (OSError, ValueError, OverflowError) as error:
            raise OptionError(
                f"expected a cache_mb that fits the memory, got {limit >> 20} ({error})"
            ) from None
        self._file = file
        if file is not None:
            weakref.finalize(self, os.close, file)
        words = np.frombuffer(memory, np.int64, entries + 1)
        self._used, self._entries = words[:1], words[1:].reshape(pictures, len(FACTORS), 3)
        self._pixels = np.frombuffer(memory, np.uint8, limit, start)
        if new:
            self._entries[:, :, _OFFSET] = _EMPTY

    def __reduce__(self) -> tuple[Any, ...]:
        if self.limit and self._file is not None and get_spawning_popen() is not None:
            from multiprocessing.reduction import DupFd

            return _attached, (self.pictures, self.limit, DupFd(self._file))
        return PictureCache, (0, 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes; also what makes one see another's pixels once it sees the
        entry. A process that is killed gives the lock back."""
        if sys.platform != "linux" or self._file is None:
            yield
            return
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    @property
    def used(self) -> int:
        """Bytes that are filled."""
        return int(self._used[0]) if self.limit else 0

    def read(self, number: int, factor: int, decode: Callable[[], Image.Image]) -> Image.Image:
        """A picture of mode RGB at 1/factor of its size, factor being one of `FACTORS`; `decode`
        gives it unless it is kept here."""
        if self.limit == 0:
            return decode()
        entry = self._entries[number, FACTORS.index(factor)]
        with self._locked():
            offset, width, height = (int(value) for value in entry)
        if offset >= 0:
            pixels = self._pixels[offset : offset + width * height * _CHANNELS]
            return Image.fromarray(pixels.reshape(height, width, _CHANNELS))
        picture = decode()
        if offset == _EMPTY:
            self._keep(entry, picture)
        return picture

    def _keep(self, entry: NDArray[np.int64], picture: Image.Image) -> None:
        pixels = picture.width * picture.height * _CHANNELS
        with self._locked():
            start = self.used
            if entry[_OFFSET] != _EMPTY or start + pixels > self.limit:
                return
            entry[_OFFSET] = _BEING_WRITTEN
            self._used[0] = start + pixels
        self._pixels[start : start + pixels] = np.asarray(picture).reshape(-1)
        with self._locked():
            entry[:] = start, picture.width, picture.height


def _attached(pictures: int, limit: int, file: Any) -> PictureCache:
    """Another process's cache."""
    return PictureCache(pictures, limit, file=file.detach())
