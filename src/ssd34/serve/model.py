"""A model in memory, as often as it has instances, and how many instances and threads it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssd34.core.postprocess import POLICIES
from ssd34.machine import thread_budget
from ssd34.runtime.detector import Detector, PreparedPicture
from ssd34.runtime.engine import ONNXRUNTIME
from ssd34.runtime.session import Outputs, Session
from ssd34.serve.options import ServeOptions
from ssd34.text import counted
from ssd34.zoo.names import EMBEDDED, model_path

WORTH = 1.05
"""So many times faster something has to be before it is done: more instances make one picture's
answer slower, and batches make it wait."""

WINDOW = 0.7
"""Seconds of one measurement; of two, the better counts."""


class Loaded:
    """A model in memory.

    Attributes:
        name: what clients call it.
        detectors: one for each instance. Where one thread computes a picture, or the engine shares
            its threads out itself, it is the same one: it takes as much memory as one.
        batch: most pictures in one run; a file for a fixed number always gets that many.
    """

    def __init__(self, options: ServeOptions, *, instances: int, threads: int, batch: int) -> None:
        """Load it; errors as of `Session`."""
        self.path = model_path(options.model)
        self.name = name_of(options.model)

        def load(streams: int) -> Detector:
            session = Session(self.path, threads=threads, engine=options.engine, streams=streams)
            return Detector(session, preprocessing=options.preprocessing)

        first = load(instances)
        shared = threads == 1 or first.session.engine.name != ONNXRUNTIME
        self.detectors = [
            first if shared or not number else load(instances) for number in range(instances)
        ]
        self.batch = first.session.batch or batch
        self._policies = {
            name: [
                Detector(one.session, policy=name, preprocessing=options.preprocessing)
                for one in self.detectors
            ]
            for name in (POLICIES if first.session.raw else ())
        }

    @property
    def session(self) -> Session:
        """The first instance's."""
        return self.detectors[0].session

    @property
    def policies(self) -> tuple[str, ...]:
        """The NMS policies that a request may name; none where the NMS is in the file."""
        return tuple(self._policies)

    def detector(self, instance: int, policy: str | None) -> Detector:
        """An instance's detector; a policy is one of `policies`, None the default."""
        return self._policies[policy][instance] if policy else self.detectors[instance]

    def compute(self, instance: int, pictures: Sequence[PreparedPicture]) -> list[Outputs]:
        """The network's output for each picture, at most `batch` of them; ModelError where the file
        cannot be run, or gives no detections."""
        detector = self.detectors[instance]
        if len(pictures) == 1:
            return [detector.compute(pictures[0])]
        tensors = [one.tensor for one in pictures if one.tensor is not None]
        return detector.session.compute(tensors)


def name_of(model: str) -> str:
    """What clients call a model: its name, or that of its file without folder and ending."""
    return model if model in EMBEDDED else Path(model).stem


def load_fastest(options: ServeOptions, *, say: Callable[[str], None] = lambda _: None) -> Loaded:
    """Load a model with the instances, threads and batches asked for, or the fastest ones.

    With instances left open, 1, 2, 4, ... share the threads, until twice as many are not `WORTH`
    it. Batches are tried where the file takes any number of pictures. `say` is told what was
    measured; errors as of `Session`.
    """
    budget = options.threads or thread_budget()
    if options.instances is not None:
        instances = options.instances
        loaded = Loaded(options, instances=instances, threads=max(1, budget // instances), batch=1)
        reason, speed = "as asked for", None
    else:
        instances = 1
        loaded = Loaded(options, instances=1, threads=budget, batch=1)
        speed = measure(loaded) if budget > 1 else None
        told = [f"1 x {counted(budget, 'thread')} {speed:.1f}/s"] if speed else []
        while speed is not None and 2 * instances <= budget:
            threads = budget // (2 * instances)
            other = Loaded(options, instances=2 * instances, threads=threads, batch=1)
            faster = measure(other)
            told.append(f"{2 * instances} x {counted(threads, 'thread')} {faster:.1f}/s")
            if faster < WORTH * speed:
                break
            loaded, speed, instances = other, faster, 2 * instances
        reason = f"measured: {', '.join(told)}" if told else "one thread to share"
    if options.max_batch > 1 and loaded.session.batch is None:
        alone = speed or measure(loaded)
        together = measure(loaded, batch=options.max_batch)
        reason += f"; batches of 1 {alone:.1f}/s, of {options.max_batch} {together:.1f}/s"
        if together >= WORTH * alone:
            loaded.batch = options.max_batch
    if loaded.session.choice:
        reason += f"; {loaded.session.choice.reason}"
    say(
        f"{counted(instances, 'instance')} of {counted(loaded.session.threads, 'thread')}, batches "
        f"of {loaded.batch} ({reason})"
    )
    return loaded


def measure(loaded: Loaded, *, batch: int | None = None, window: float = WINDOW) -> float:
    """Pictures a second of all instances together, from noise to the network's outputs."""
    batch = batch or loaded.session.batch or 1
    side = loaded.session.spec.image_size
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    start = threading.Barrier(len(loaded.detectors))

    def work(instance: int) -> float:
        detector = loaded.detectors[instance]

        def run() -> None:
            loaded.compute(instance, [detector.prepare(noise) for _ in range(batch)])

        best = 0.0
        try:
            run()
            for _ in range(2):
                start.wait()
                runs, started, now = 0, time.monotonic(), 0.0
                while now < window:
                    run()
                    runs, now = runs + 1, time.monotonic() - started
                best = max(best, runs * batch / now)
        except Exception:
            start.abort()  # or the others would wait for this one
            raise
        return best

    with ThreadPoolExecutor(len(loaded.detectors)) as pool:
        return sum(pool.map(work, range(len(loaded.detectors))))
