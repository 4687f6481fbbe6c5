"""Frames decoded ahead in a thread; of a live source the newest, connected again if it breaks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ssd34.errors import VideoError
from ssd34.images.read import MAX_PIXELS
from ssd34.video.film import TIMEOUT, Film, Frame, Sound
from ssd34.video.source import VideoSource

FRAMES_AHEAD = 4
"""Most decoded frames that wait."""

PACKETS_AHEAD = 2000
"""Most packets of sound that wait; of a live source the oldest are dropped, a film is stopped."""

_LEAVE = 1.0


@dataclass(frozen=True)
class Patience:
    """How long a live source is waited for.

    Attributes:
        tries: connections in a row that may bring no frame before it is given up.
        wait: seconds before the first of them; twice as long before each further one.
        longest: most seconds before one.
        timeout: seconds of silence after which it counts as broken.
    """

    tries: int = 6
    wait: float = 1.0
    longest: float = 30.0
    timeout: float = TIMEOUT


class Feed:
    """What comes out of a source, ready to be looked at. Use it in a ``with`` block.

    Attributes:
        film: the open film or connection.
        live: it does not wait for us.
        skipped: frames of a live source that came while no one had time.
        broken: damaged frames.
        lost: why a live source was given up, or where a film broke off; None: neither. A live
            source that ends is not given up where no one is to connect again.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        every: int = 1,
        max_pixels: int = MAX_PIXELS,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the source.

        Args:
            source: what to open.
            every: pass over all frames but each one of so many.
            max_pixels: refuse larger frames.
            patience: with a live source.
            say: called, in another thread, with a line where a stream is connected again.

        Raises:
            VideoError: it cannot be opened.
            LargeImageError: its frames are too large.
            MissingExtraError: PyAV is not installed.
        """
        self.source = source
        self.every = every
        self.max_pixels = max_pixels
        self.patience = patience or Patience()
        self.say = say
        self.film = self._connect(begins=0.0, first=0)
        self.live = self.film.live
        self.skipped = 0
        self.lost: str | None = None
        self._broken_before = 0
        self._began = time.monotonic()
        self._tries = 0
        self._next = 0
        self._frames: deque[Frame | Sound] = deque()
        self._change = threading.Condition()
        self._stopped = threading.Event()
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    @property
    def broken(self) -> int:
        """Damaged frames of all connections."""
        return self._broken_before + self.film.broken

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(_LEAVE)
        if not self._thread.is_alive():  # else it waits for a silent stream, and closes it then
            self.film.close()

    def stop(self) -> None:
        """End soon, as if the source had ended; may be called in a signal's handler."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Frame | Sound]:
        """Frames and sound in their order, until the source ends or is stopped.

        Raises:
            VideoError: nothing of the film could be decoded.
            LargeImageError: a frame is too large.
        """
        while (item := self._take()) is not None:
            yield item

    def _take(self) -> Frame | Sound | None:
        with self._change:
            while not self._frames and not self._ended and not self._stopped.is_set():
                self._change.wait(0.1)  # a signal's handler cannot wake it
            if self._stopped.is_set():
                return None
            if not self._frames:
                if self._failure is not None:
                    raise self._failure
                return None
            self._change.notify_all()
            return self._frames.popleft()

    def _put(self, item: Frame | Sound) -> bool:
        """Hand something over; False: no one wants more."""
        with self._change:
            if self.live:
                self._make_room(item)
            else:
                while self._is_full() and not self._stopped.is_set():
                    self._change.wait(0.1)
            self._frames.append(item)
            self._change.notify_all()
            return not self._stopped.is_set()

    def _is_full(self) -> bool:
        frames = sum(isinstance(item, Frame) for item in self._frames)
        return frames >= FRAMES_AHEAD or len(self._frames) >= PACKETS_AHEAD

    def _make_room(self, item: Frame | Sound) -> None:
        if isinstance(item, Frame):
            kept = [one for one in self._frames if isinstance(one, Sound)]
            self.skipped += len(self._frames) - len(kept)
            self._frames = deque(kept)
        while len(self._frames) >= PACKETS_AHEAD:
            self._frames.popleft()

    def _run(self) -> None:
        try:
            while self._read() and self._reconnect():
                pass
        except BaseException as error:
            self._failure = error
        finally:
            if self._stopped.is_set():
                with suppress(Exception):
                    self.film.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _read(self) -> bool:
        """Hand over all of the film; True: a live source broke, and is to be connected again."""
        reason = "it ended" if self.patience.tries else None
        try:
            for item in self.film.read():
                if isinstance(item, Frame):
                    self._tries = 0
                    self._next = item.number + 1
                    if item.number % self.every:
                        continue
                if not self._put(item):
                    return False
        except VideoError as error:
            if not self.live:
                raise
            reason = str(error)
        if not self.live:
            self.lost = self.film.cut
            return False
        self.lost = reason
        return not self._stopped.is_set()

    def _reconnect(self) -> bool:
        self.film.close()
        self._broken_before += self.film.broken
        self.film.broken = 0
        patience = self.patience
        while self._tries < patience.tries:
            wait = min(patience.wait * 2**self._tries, patience.longest)
            self._tries += 1
            self.say(
                f"{self.source.name}: the stream broke ({self.lost}); connecting again in "
                f"{wait:g} s, try {self._tries} of {patience.tries}"
            )
            if self._stopped.wait(wait):
                return False
            try:
                clock = self.film.clock
                begins = max(time.monotonic() - self._began, clock.now + clock.period)
                self.film = self._connect(begins=begins, first=self._next)
            except VideoError as error:
                self.lost = str(error).removeprefix(f"{self.source.name}: ")
                continue
            self.lost = None
            return True
        return False

    def _connect(self, *, begins: float, first: int) -> Film:
        return Film(
            self.source, max_pixels=self.max_pixels, timeout=self.patience.timeout, begins=begins,
            first=first,
        )  # fmt: skip
