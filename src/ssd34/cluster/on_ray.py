"""The parts of a job on a Ray cluster: one actor with a detector for every few processors."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from ssd34.cluster.job import BatchJob, Task
from ssd34.cluster.local import Events, Finished
from ssd34.cluster.part import PartWorker
from ssd34.cluster.pictures import Picture
from ssd34.errors import ModelError, OptionError, Ssd34Error, require
from ssd34.machine import signal_restored, thread_budget
from ssd34.runtime.engine import CUDA
from ssd34.text import counted, one_line

_TRIES = 5
"""A part whose actor has died so often is given up, and with it the job; and so is loading, which
fails so often for each worker without a part being finished."""

_LOOK = 1.0
"""Seconds in which an interruption is noticed at the latest."""

_REACHED = 10.0
"""Seconds in which the cluster's address has to answer."""


class _Actor:
    """A detector on a node."""

    def __init__(self, task: Task, threads: int) -> None:
        self._given = task, threads

    def ready(self) -> None:
        """Load the detector. Not in the constructor, of whose errors Ray tells the text only."""
        task, threads = self._given
        self._worker = PartWorker(task, threads=threads)

    def detect(self, part: int, pictures: Sequence[Picture]) -> bytes:
        """See `PartWorker.detect`."""
        return self._worker.detect(part, pictures)


def run_on_ray(
    job: BatchJob,
    parts: Sequence[int],
    *,
    address: str | None,
    workers: int | None,
    threads: int,
    note: Callable[[str], None] = lambda _: None,
) -> Events:
    """Do some parts, each in one of so many actors, in any order.

    Actors only get parts once they have loaded the detector. A part whose actor or node dies is
    given to another actor, and a new one is asked for, which waits where the cluster has no room.

    Args:
        address: of the cluster, as `ray.init` takes it; None: one on this machine.
        workers: actors; None: as many as there are processors for.
        threads: processors of each.
        note: told what goes on in the cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: there is no cluster at the address, or it has too few processors or GPUs.
        Ssd34Error: whatever a worker raises; ModelError: the actor of a part died several times.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    ray = require("ray", extra="ray", why="--runner ray")
    with _connected(ray, address, workers=workers, threads=threads):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = {"CPU": threads}
        if job.task.options.engine == CUDA:  # Ray hides the GPUs from actors that ask for none
            needs["GPU"] = 1
        room = sum(min(int(node.get(k, 0)) // n for k, n in needs.items()) for node in nodes)
        if room == 0:
            needed = f"{threads} processors" + " and a GPU" * ("GPU" in needs)
            raise OptionError(f"the cluster has no node with {needed} for an actor")
        note(f"{counted(len(nodes), 'node')} in the cluster, with room for {room} workers")
        kind = ray.remote(_Actor).options(
            num_cpus=threads, num_gpus=needs.get("GPU", 0), scheduling_strategy="SPREAD"
        )
        yield from _run(
            ray, job, parts, kind=kind, workers=workers or room, threads=threads, note=note
        )


@contextmanager
def _connected(
    ray: Any, address: str | None, *, workers: int | None, threads: int
) -> Iterator[None]:
    here = (
        {"num_cpus": workers * threads if workers else thread_budget(), "include_dashboard": False}
        if address is None
        else {}
    )
    try:
        if address and (found := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)):
            # Ray itself tries for minutes.
            socket.create_connection((found[1], int(found[2])), timeout=_REACHED).close()
        if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            # Or Ray writes one to ~/.ray. It stays, as Ray keeps the first one of a process.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with signal_restored(signal.SIGTERM):  # Ray has a way of its own
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise OptionError(
            f"--address {address}: no Ray cluster there ({one_line(error)}); "
            "start one with: ray start --head; if it takes a token, set RAY_AUTH_MODE=token"
        ) from None
    # On standard output Ray prints pages about nodes that are lost, at the end at the latest.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        finally:
            ray.shutdown()


def _run(
    ray: Any,
    job: BatchJob,
    parts: Sequence[int],
    *,
    kind: Any,
    workers: int,
    threads: int,
    note: Callable[[str], None],
) -> Events:
    task = ray.put(job.task)
    waiting, tries = deque(parts), Counter[int | None]()
    calls: dict[Any, tuple[Any, int | None]] = {}  # to actor and part; None: is it ready?
    idle: list[Any] = []

    def start() -> None:
        actor = kind.remote(task, threads)
        calls[actor.ready.remote()] = actor, None

    for _ in range(min(workers, len(parts))):
        start()
    left = len(parts)
    while left:
        while idle and waiting:
            actor, part = idle.pop(), waiting.popleft()
            calls[actor.detect.remote(part, job.pictures_of(part))] = actor, part
        done, _ = ray.wait(list(calls), num_returns=1, timeout=_LOOK)
        for reference in done:
            actor, asked = calls.pop(reference)
            try:
                data = ray.get(reference)
            except Exception as error:
                if not isinstance(error, ray.exceptions.RayError):
                    raise
                _raise_own(ray, error)
                kind_of_error = type(error).__name__
                tries[asked] += 1
                if tries[asked] == (_TRIES if asked is not None else _TRIES * workers):
                    what = "loading" if asked is None else f"part {asked}"
                    raise ModelError(
                        f"{what}: actors died {tries[asked]} times ({kind_of_error}); do the "
                        "nodes have enough memory?"
                    ) from None
                if asked is not None:
                    note(f"an actor died ({kind_of_error}); another one takes its part")
                    waiting.appendleft(asked)
                with suppress(Exception):
                    ray.kill(actor)
                start()
                continue
            idle.append(actor)
            if asked is not None:
                left -= 1
                tries[None] = 0
                yield Finished(asked, data)


def _raise_own(ray: Any, error: Exception) -> None:
    """What our code raised on the other side, as it was raised; nothing where a node or a process
    is to blame."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, Ssd34Error) else error
