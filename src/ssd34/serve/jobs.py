"""Pictures that wait for an instance."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ssd34.runtime.detector import Detector, Outputs, PreparedPicture
from ssd34.serve.model import Loaded

READ, WAIT, PREPARE, INFER, FINISH = "read", "wait", "prepare", "infer", "finish"
STAGES = (READ, WAIT, PREPARE, INFER, FINISH)
"""What the time of a request is spent on."""


@dataclass(eq=False)
class Job:
    """One picture on its way through the network.

    Attributes:
        loaded: the model that the request was checked against. A reload does not change it.
        policy: NMS policy; None: the model's own.
        prepare: makes the network's input.
        finish: makes of the network's output what the future will hold.
        deadline: after this nobody wants the answer, in seconds of `time.monotonic`.
        future: of the answer. Cancelled: nobody waits.
        spent: seconds by stage.
    """

    loaded: Loaded
    policy: str | None
    prepare: Callable[[Detector], PreparedPicture]
    finish: Callable[[Detector, PreparedPicture, Outputs], Any]
    deadline: float
    future: Future[Any] = field(default_factory=Future)
    spent: dict[str, float] = field(default_factory=dict)
    queued: float = field(default_factory=time.monotonic)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Take the time of a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent[stage] = time.monotonic() - started


class QueueFullError(Exception):
    """There is no place for so many."""


class JobQueue:
    """First in, first out, with so many places and no more. Threads may share it."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """Add all of them or none.

        Raises:
            QueueFullError: there are not so many places.
        """
        with self._changed:
            if self._closed or len(self._jobs) + len(jobs) > self.places:
                raise QueueFullError
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def take(self, *, wait: float) -> list[Job]:
        """The next batch of one model's jobs; empty only when the queue is closed and empty.

        Args:
            wait: how long to wait for more, where the model takes more at once, seconds.
        """
        with self._changed:
            while True:
                while not self._jobs:
                    if self._closed:
                        return []
                    self._changed.wait()
                loaded = self._jobs[0].loaded
                end = time.monotonic() + wait
                while 0 < len(self._jobs) < loaded.batch and not self._closed:
                    left = end - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
                taken: list[Job] = []
                while self._jobs and len(taken) < loaded.batch:
                    if self._jobs[0].loaded is not loaded:
                        break
                    taken.append(self._jobs.popleft())
                if taken:
                    return taken

    def remove(self, jobs: Sequence[Job]) -> int:
        """Leave out those that still wait; returns how many."""
        with self._changed:
            waiting = [job for job in jobs if job in self._jobs]
            for job in waiting:
                self._jobs.remove(job)
            return len(waiting)

    def close(self) -> None:
        """Take no more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
