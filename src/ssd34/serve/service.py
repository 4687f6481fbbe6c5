"""The instances at work: pictures that wait, threads that take them, and the loop that waits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

from ssd34.errors import ImageError
from ssd34.runtime.detector import Detector, PreparedPicture
from ssd34.runtime.session import Outputs
from ssd34.serve.metrics import Metrics, log
from ssd34.serve.model import Loaded
from ssd34.serve.options import ClientGoneError, Refusal, ServeOptions

Parsed = TypeVar("Parsed")

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


class JobQueue:
    """First in, first out, with so many places and no more. Threads may share it."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> bool:
        """Add all of them or, where there are not so many places, none; says which."""
        with self._changed:
            if self._closed or len(self._jobs) + len(jobs) > self.places:
                return False
            self._jobs.extend(jobs)
            self._changed.notify_all()
            return True

    def take(self, *, wait: float) -> list[Job]:
        """The next batch of one model's jobs; empty only when the queue is closed and empty. Where
        the model takes more at once, more are waited for, so many seconds."""
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


class Buffer:
    """The memory that bodies take. Only the event loop's thread uses it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def take(self, size: int) -> None:
        """Hold so many bytes; Refusal where there are not so many left."""
        if self.used + size > self.size:
            raise Refusal(
                503, "too many uploads at once; try again later", headers={"Retry-After": "1"}
            )
        self.used += size

    def give_back(self, size: int) -> None:
        """What was taken."""
        self.used -= size


class Service:
    """A loaded model, its queue and its threads.

    Attributes:
        draining: it finishes what it has and is about to end.
    """

    def __init__(self, options: ServeOptions, loaded: Loaded) -> None:
        self.options = options
        self.loaded = loaded
        self._load = partial(
            Loaded, options, instances=len(loaded.detectors), threads=loaded.session.threads,
            batch=loaded.batch,
        )  # fmt: skip
        self.queue = JobQueue(options.queue)
        self.buffer = Buffer(options.max_buffer)
        self.metrics = Metrics()
        self.metrics.queue.set_function(lambda: len(self.queue))
        self.metrics.buffer.set_function(lambda: self.buffer.used)
        self.metrics.show_model(loaded)
        self.draining = False
        self._parsers = CapacityLimiter(2)
        self._reloading = threading.Lock()
        self._picture_seconds = 0.05
        self._threads = [
            threading.Thread(target=self._work, args=(k,), name=f"instance {k}", daemon=True)
            for k in range(len(loaded.detectors))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what waits and end the threads."""
        self.queue.close()
        for thread in self._threads:
            thread.join()

    def check_room(self) -> None:
        """Refusal where no picture would be taken now."""
        if len(self.queue) >= self.queue.places:
            raise self._full()

    async def parse(self, parse: Callable[[], Parsed]) -> Parsed:
        """Call what takes a body apart in one of a few threads, so that neither a large body nor a
        hostile one keeps the event loop."""
        return await to_thread.run_sync(parse, limiter=self._parsers)

    def _full(self) -> Refusal:
        seconds = len(self.queue) * self._picture_seconds / len(self._threads)
        return Refusal(
            503, "all instances are busy and the queue is full; try again later",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )  # fmt: skip

    async def results(self, jobs: Sequence[Job], receive: Receive) -> list[Any]:
        """What each job of a request gave, or the exception that it ended with; `receive` is the
        request's, whose body has been read. Refusal: there is no room, or the deadline has passed.
        ClientGoneError: the client has left."""
        if not self.queue.put(jobs):
            raise self._full()
        answers: asyncio.Future[list[Any]] = asyncio.gather(
            *(asyncio.wrap_future(job.future) for job in jobs), return_exceptions=True
        )
        watcher: asyncio.Future[Any] = asyncio.ensure_future(_wait_until_gone(receive))
        try:
            left = min(job.deadline for job in jobs) - time.monotonic()
            await asyncio.wait(
                {answers, watcher}, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED
            )
            if answers.done():
                return answers.result()
            if watcher.done():
                raise ClientGoneError
            raise Refusal(504, "the answer was not ready in time; try again later")
        finally:
            watcher.cancel()
            answers.cancel()
            for job in jobs:
                job.future.cancel()
            self.metrics.pictures.labels("dropped").inc(self.queue.remove(jobs))

    def reload(self) -> None:
        """Load the file again; requests that were accepted before are answered by the old model.
        Ssd34Error: it cannot be loaded; the old model stays. Refusal: it is being loaded
        already."""
        if not self._reloading.acquire(blocking=False):
            raise Refusal(409, "the model is being loaded already")
        try:
            self.loaded = loaded = self._load()
            self.metrics.show_model(loaded)
            log.info("loaded the model again", extra={"facts": {"model": loaded.name}})
        finally:
            self._reloading.release()

    def _work(self, instance: int) -> None:
        """What each thread does until the queue is closed."""
        while jobs := self.queue.take(wait=self.options.max_wait):
            try:
                self._process(instance, jobs)
            except BaseException as error:  # a thread that ends would never be replaced
                log.exception("an instance failed")
                for job in jobs:
                    self._fail(job, error)
            for job in jobs:
                for stage, seconds in job.spent.items():
                    self.metrics.stages.labels(stage).observe(seconds)
            del jobs

    def _process(self, instance: int, jobs: Sequence[Job]) -> None:
        ready: list[tuple[Job, PreparedPicture]] = []
        for job in jobs:
            now = time.monotonic()
            job.spent[WAIT] = now - job.queued
            if now > job.deadline or not job.future.set_running_or_notify_cancel():
                job.future.cancel()
                self.metrics.pictures.labels("dropped").inc()
                continue
            try:
                with job.timed(PREPARE):
                    prepared = job.prepare(job.loaded.detector(instance, job.policy))
                ready.append((job, prepared))
            except Exception as error:
                self._fail(job, error)
        if ready:
            self._infer(instance, ready)

    def _infer(self, instance: int, ready: Sequence[tuple[Job, PreparedPicture]]) -> None:
        started = time.monotonic()
        first = ready[0][0]
        try:
            outputs = first.loaded.compute(instance, [prepared for _, prepared in ready])
        except Exception as error:
            if len(ready) > 1:  # one of them may be at fault
                for one in ready:
                    self._infer(instance, [one])
                return
            self._fail(first, error)
            return
        self.metrics.batches.observe(len(ready))
        seconds = time.monotonic() - started
        for (job, prepared), output in zip(ready, outputs, strict=True):
            job.spent[INFER] = seconds
            try:
                with job.timed(FINISH):
                    answer = job.finish(job.loaded.detector(instance, job.policy), prepared, output)
            except Exception as error:
                self._fail(job, error)
                continue
            self.metrics.pictures.labels("done").inc()
            job.future.set_result(answer)
        each = (time.monotonic() - started + first.spent.get(PREPARE, 0)) / len(ready)
        self._picture_seconds += 0.1 * (each - self._picture_seconds)

    def _fail(self, job: Job, error: BaseException) -> None:
        with suppress(InvalidStateError):  # it has an answer
            job.future.set_exception(error)
            refused = isinstance(error, ImageError | Refusal)
            self.metrics.pictures.labels("refused" if refused else "failed").inc()


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
