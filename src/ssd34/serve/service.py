"""The instances at work: threads that take pictures from the queue, and the loop that waits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import suppress
from typing import Any

from ssd34.errors import ImageError
from ssd34.runtime.detector import PreparedPicture
from ssd34.serve.jobs import FINISH, INFER, PREPARE, WAIT, Job, JobQueue, QueueFullError
from ssd34.serve.metrics import Metrics, log
from ssd34.serve.model import Arrangement, Loaded
from ssd34.serve.options import ClientGoneError, Refusal, ServeOptions


class Buffer:
    """The memory that bodies take. Only the event loop's thread uses it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def take(self, size: int) -> None:
        """
        Raises:
            Refusal: there is not so much left.
        """
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
        loaded: the model in use.
        draining: it finishes what it has and is about to end.
    """

    def __init__(self, options: ServeOptions, loaded: Loaded, arrangement: Arrangement) -> None:
        self.options = options
        self.loaded = loaded
        self.arrangement = arrangement
        self.queue = JobQueue(options.queue)
        self.buffer = Buffer(options.max_buffer)
        self.metrics = Metrics()
        self.metrics.watch(queue=lambda: len(self.queue), buffer=lambda: self.buffer.used)
        self.metrics.show_model(loaded, arrangement)
        self.draining = False
        self._reloading = threading.Lock()
        self._picture_seconds = 0.05
        self._threads = [
            threading.Thread(target=self._work, args=(k,), name=f"instance {k}", daemon=True)
            for k in range(arrangement.instances)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what waits and end the threads."""
        self.queue.close()
        for thread in self._threads:
            thread.join()

    def check_room(self, pictures: int = 1) -> None:
        """
        Raises:
            Refusal: as many pictures would not be taken now.
        """
        if len(self.queue) + pictures > self.queue.places:
            raise self._full()

    def _full(self) -> Refusal:
        seconds = len(self.queue) * self._picture_seconds / len(self._threads)
        return Refusal(
            503, "all instances are busy and the queue is full; try again later",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )  # fmt: skip

    async def results(self, jobs: Sequence[Job], *, gone: Awaitable[None]) -> list[Any]:
        """What each job gave, or the exception that it ended with.

        Args:
            jobs: of one request.
            gone: done when its client has left.

        Raises:
            Refusal: there is no room, or the deadline has passed.
            ClientGoneError: the client has left.
        """
        try:
            self.queue.put(jobs)
        except QueueFullError:
            raise self._full() from None
        answers: asyncio.Future[list[Any]] = asyncio.gather(
            *(asyncio.wrap_future(job.future) for job in jobs), return_exceptions=True
        )
        watcher: asyncio.Future[Any] = asyncio.ensure_future(gone)
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

        Raises:
            Ssd34Error: it cannot be loaded; the old model stays.
            Refusal: it is being loaded already.
        """
        if not self._reloading.acquire(blocking=False):
            raise Refusal(409, "the model is being loaded already")
        try:
            loaded = Loaded(
                self.options, instances=self.arrangement.instances,
                threads=self.arrangement.threads, batch=self.arrangement.batch,
            )  # fmt: skip
            self.loaded = loaded
            self.metrics.show_model(loaded, self.arrangement)
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
                    _fail(job, error)
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
                self._note(error)
                _fail(job, error)
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
            self._note(error)
            _fail(first, error)
            return
        self.metrics.batches.observe(len(ready))
        seconds = time.monotonic() - started
        for (job, prepared), output in zip(ready, outputs, strict=True):
            job.spent[INFER] = seconds
            try:
                with job.timed(FINISH):
                    answer = job.finish(job.loaded.detector(instance, job.policy), prepared, output)
            except Exception as error:
                self._note(error)
                _fail(job, error)
                continue
            self.metrics.pictures.labels("done").inc()
            with suppress(InvalidStateError):
                job.future.set_result(answer)
        each = (time.monotonic() - started + first.spent.get(PREPARE, 0)) / len(ready)
        self._picture_seconds += 0.1 * (each - self._picture_seconds)

    def _note(self, error: Exception) -> None:
        refused = isinstance(error, ImageError | Refusal)
        self.metrics.pictures.labels("refused" if refused else "failed").inc()


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done():
        with suppress(InvalidStateError, CancelledError):
            job.future.set_exception(error)


async def wait_until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Done when the client of an ASGI request has left; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
