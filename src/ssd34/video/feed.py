"""Frames decoded ahead in a thread; of a live source the newest, connected again if it breaks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ssd34.errors import VideoError
from ssd34.images.read import MAX_PIXELS
from ssd34.video.film import TIMEOUT, Film, Frame, Sound
from ssd34.video.source import VideoSource

FRAMES_AHEAD = 4
"""Most decoded frames that wait."""

PACKETS_AHEAD = 2000
"""Most packets that wait; of a live source the oldest are dropped, the decoding of a film waits."""

_LEAVE = 1.0
_LOOK = 0.1


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
    """What comes out of a source, in its order. Use it in a ``with`` block, and iterate over it.

    Iteration raises `VideoError` where nothing of a film can be decoded, and `LargeImageError`.

    Attributes:
        film: the open film or connection.
        live: it does not wait for us.
        skipped: frames of a live source that came while no one had time.
        lost: why a live source was given up, or where a film broke off; empty: neither. A live
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
        """Open a source, of which `every` how many-th frame is wanted. `say` is called, in another
        thread, with a line where a stream is connected again. Errors as of `Film`."""
        self.source, self.every, self.max_pixels = source, every, max_pixels
        self.patience, self.say = patience or Patience(), say
        self.film = self._connect(begins=0.0, first=0)
        self.live = self.film.live
        self.skipped, self.lost = 0, ""
        self._broken = self._tries = self._next = 0
        self._began = time.monotonic()
        self._items: deque[Frame | Sound] = deque()
        self._change = threading.Condition()
        self._stopped = threading.Event()
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    @property
    def broken(self) -> int:
        """Damaged frames of all connections."""
        return self._broken + self.film.broken

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(_LEAVE)  # it may wait for a silent stream
        if not self._thread.is_alive():
            self.film.close()

    def stop(self) -> None:
        """End soon, as if the source had ended; may be called in a signal's handler."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Frame | Sound]:
        while (item := self._take()) is not None:
            yield item

    def _take(self) -> Frame | Sound | None:
        with self._change:
            while not (self._items or self._ended or self._stopped.is_set()):
                self._change.wait(_LOOK)  # a signal's handler cannot wake it
            if self._failure is not None and not self._items:
                raise self._failure
            if self._stopped.is_set() or not self._items:
                return None
            self._change.notify_all()
            return self._items.popleft()

    def _put(self, item: Frame | Sound) -> None:
        with self._change:
            if self.live:
                if isinstance(item, Frame):  # the newest one is the only one
                    sounds = [one for one in self._items if isinstance(one, Sound)]
                    self.skipped += len(self._items) - len(sounds)
                    self._items = deque(sounds)
                while len(self._items) >= PACKETS_AHEAD:
                    self._items.popleft()
            while self._is_full() and not self._stopped.is_set():
                self._change.wait(_LOOK)
            self._items.append(item)
            self._change.notify_all()

    def _is_full(self) -> bool:
        frames = sum(isinstance(item, Frame) for item in self._items)
        return frames >= FRAMES_AHEAD or len(self._items) >= PACKETS_AHEAD

    def _run(self) -> None:
        try:
            while self._read() and self._reconnect():
                pass
        except BaseException as error:
            self._failure = error
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _read(self) -> bool:
        """Hand over all of the film; True: a live source broke, and is to be connected again."""
        reason = "it ended" if self.patience.tries else ""
        try:
            for item in self.film.read():
                if self._stopped.is_set():
                    return False
                if isinstance(item, Frame):
                    self._tries, self._next = 0, item.number + 1
                    if item.number % self.every:
                        continue
                self._put(item)
        except VideoError as error:
            if not self.live:
                raise
            reason = str(error)
        self.lost = reason if self.live else self.film.cut
        return self.live

    def _reconnect(self) -> bool:
        """Whether there is a new connection."""
        self.film.close()
        self._broken, self.film.broken = self.broken, 0
        patience, name = self.patience, self.source.name
        while self._tries < patience.tries:
            wait = min(patience.wait * 2**self._tries, patience.longest)
            self._tries += 1
            self.say(
                f"{name}: the stream broke ({self.lost}); connecting again in {wait:g} s, try "
                f"{self._tries} of {patience.tries}"
            )
            if self._stopped.wait(wait):
                return False
            clock = self.film.clock
            begins = max(time.monotonic() - self._began, clock.now + clock.period)
            try:
                self.film = self._connect(begins=begins, first=self._next)
            except VideoError as error:
                self.lost = str(error).removeprefix(f"{name}: ")
                continue
            self.lost = ""
            return True
        return False

    def _connect(self, *, begins: float, first: int) -> Film:
        return Film(
            self.source, max_pixels=self.max_pixels, timeout=self.patience.timeout, begins=begins,
            first=first,
        )  # fmt: skip
