"""Decoded pictures, kept in memory that all worker processes share."""

from __future__ import annotations

import mmap
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from ssd34.data.reduced import FACTORS
from ssd34.errors import OptionError

COPIES = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
"""How worker processes are started: where it is safe as copies, which is not every Python's
default."""

_PATIENCE = 5.0
"""Seconds."""
_CHANNELS = 3
_EMPTY, _BEING_WRITTEN = -1, -2
_OFFSET, _WIDTH, _HEIGHT = range(3)


class PictureCache:
    """Decoded pictures, each at up to four sizes, in one piece of memory of limited length.

    Worker processes are copies of the one that made the cache, and share the memory: what one
    has decoded, all of them have, and it counts once. Where worker processes are started anew
    (macOS, Windows) they do without. First come, first kept: every picture will be drawn as often
    as every other, so that making room for one by dropping another would gain nothing.
    """

    def __init__(self, pictures: int, limit: int) -> None:
        """
        Args:
            pictures: how many there are; they are asked for by number.
            limit: bytes of pixels to keep. Memory is taken as it is filled.

        Raises:
            OptionError: more than the system gives.
        """
        self.limit = limit
        if limit == 0:
            return
        entries = pictures * len(FACTORS) * 3
        try:
            self._pixels = mmap.mmap(-1, limit)
            words = np.frombuffer(mmap.mmap(-1, (entries + 1) * 8), np.int64)
            # Also what makes one process see another's pixels once it sees the entry.
            self._lock = COPIES.Lock()
        except (OSError, ValueError, OverflowError) as error:
            raise OptionError(
                f"expected a cache_mb that fits the memory, got {limit >> 20} ({error})"
            ) from None
        self._used, self._entries = words[:1], words[1:].reshape(pictures, len(FACTORS), 3)
        self._entries[:, :, _OFFSET] = _EMPTY

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int, int]]:
        return PictureCache, (0, 0)

    @property
    def used(self) -> int:
        """Bytes that are filled."""
        return int(self._used[0]) if self.limit else 0

    def read(self, number: int, factor: int, decode: Callable[[], Image.Image]) -> Image.Image:
        """A picture of mode RGB at 1/factor of its size.

        Args:
            number: which one.
            factor: one of `FACTORS`.
            decode: gives it; called unless it is kept here.
        """
        if self.limit == 0:
            return decode()
        entry = self._entries[number, FACTORS.index(factor)]
        with self._locked():
            offset, width, height = (int(value) for value in entry)
        if offset >= 0:
            pixels = np.frombuffer(self._pixels, np.uint8, width * height * _CHANNELS, offset)
            return Image.fromarray(pixels.reshape(height, width, _CHANNELS))
        picture = decode()
        if offset == _EMPTY:
            self._keep(entry, picture)
        return picture

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else reads or writes the entries."""
        # It is held for microseconds: who held it so long was killed. Asked twice, as the clock
        # goes on while the whole group is suspended.
        if not any(self._lock.acquire(timeout=_PATIENCE) for _ in range(2)):
            raise RuntimeError("a worker process exited unexpectedly in the cache of pictures")
        try:
            yield
        finally:
            self._lock.release()

    def _keep(
        self, entry: np.ndarray[tuple[int], np.dtype[np.int64]], picture: Image.Image
    ) -> None:
        pixels = picture.width * picture.height * _CHANNELS
        with self._locked():
            start = self.used
            if entry[_OFFSET] != _EMPTY or start + pixels > self.limit:
                return
            entry[_OFFSET] = _BEING_WRITTEN
            self._used[0] = start + pixels
        self._pixels[start : start + pixels] = picture.tobytes()
        with self._locked():
            entry[:] = start, picture.width, picture.height
