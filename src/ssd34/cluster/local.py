"""The parts of a job on this machine: processes, each with its share of the processors."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from ssd34.cluster.job import BatchJob, Task
from ssd34.cluster.part import PartWorker
from ssd34.errors import ModelError, Ssd34Error
from ssd34.machine import signal_restored

_TRIES = 2
"""A part whose process has ended so often is given up, and with it the job."""

_INTERVAL = 0.25
"""Seconds between two messages of a process."""


class PartProgress(NamedTuple):
    """How far a part is: pictures done, and how many of them have errors."""

    part: int
    pictures: int
    errors: int


class Finished(NamedTuple):
    """A part's whole file."""

    part: int
    data: bytes


Events = Generator[PartProgress | Finished, None, None]


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    part: int


def run_on_processes(job: BatchJob, parts: Sequence[int], *, workers: int, threads: int) -> Events:
    """Do some parts, each in one of so many processes, in any order.

    A process that ends on its own, as one that the system kills for its memory, is replaced, and
    its part done again. When the caller stops, the processes are ended.

    Raises:
        Ssd34Error: whatever a worker raises; ModelError: a part's process ended twice.
    """
    waiting, tries = deque(parts), Counter[int]()
    running: dict[Connection, _Worker] = {}

    def start(part: int) -> None:
        worker = _start(job.task, threads)
        running[worker.connection] = worker
        give(worker, part)

    def give(worker: _Worker, part: int) -> None:
        worker.part = part
        with suppress(BrokenPipeError):  # it has ended, which is seen below
            worker.connection.send((part, job.pictures_of(part)))

    try:
        while waiting and len(running) < workers:
            start(waiting.popleft())
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                worker = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    code = _end(running.pop(connection))
                    tries[worker.part] += 1
                    if tries[worker.part] == _TRIES:
                        raise _ended(job, worker.part, code) from None
                    yield PartProgress(worker.part, 0, 0)
                    start(worker.part)
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
                if isinstance(message, Finished):
                    if waiting:
                        give(worker, waiting.popleft())
                    else:
                        _end(running.pop(connection))
    finally:
        for worker in running.values():
            worker.process.kill()
        for worker in running.values():
            _end(worker)


def _ended(job: BatchJob, part: int, code: int | None) -> ModelError:
    pictures = job.pictures_of(part)
    return ModelError(
        f"part {part}: its process ended {_TRIES} times, with code {code}, between the pictures "
        f"{pictures[0].name!r:.100} and {pictures[-1].name!r:.100}; is there enough memory for so "
        "many --workers? The same command continues behind the parts that are finished"
    )


def _start(task: Task, threads: int) -> _Worker:
    """A new process of the same program; an interruption is left to this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, task, threads), daemon=True)
    with signal_restored(signal.SIGINT, signal.SIG_IGN):  # from its first moment
        process.start()
    theirs.close()
    return _Worker(process, ours, -1)


def _end(worker: _Worker) -> int | None:
    """Its exit code, once it has ended."""
    worker.connection.close()
    worker.process.join(10)
    worker.process.kill()
    worker.process.join()
    code = worker.process.exitcode
    worker.process.close()
    return code


def _work(connection: Connection, task: Task, threads: int) -> None:
    """The other side: does what it is told until nobody is there to tell it."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = PartWorker(task, threads=threads)
            while True:
                part, pictures = connection.recv()
                data = worker.detect(part, pictures, _reporter(connection, part))
                connection.send(Finished(part, data))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Ssd34Error as error:
            connection.send(error)
        except Exception:
            connection.send(RuntimeError(traceback.format_exc()))


def _reporter(connection: Connection, part: int) -> Callable[[int, int], None]:
    last = time.monotonic()

    def moved(pictures: int, errors: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _INTERVAL:
            last = now
            connection.send(PartProgress(part, pictures, errors))

    return moved
