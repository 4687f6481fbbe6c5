"""Pictures a second of plain `detect_many`, `ssd34 batch` with 1 and 2 workers, and Ray with 2
actors, in turns; memory over many pictures; how long a job stands still where a worker or a node
is killed; processor time of each stage.

    python benchmarks/batch.py photos --pictures 400 --rounds 3 --json batch.json
    python benchmarks/batch.py photos --pictures 50000 --what memory
    python benchmarks/batch.py photos --pictures 200 --what recovery
    python benchmarks/batch.py photos --pictures 200 --what stages
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from tables import keep, print_rows

from ssd34.cluster.job import BatchOptions, plan_job
from ssd34.cluster.part import PartWorker, read_facts
from ssd34.cluster.run import RAY, BatchListener, Runner, run_batch
from ssd34.cluster.sources import open_source
from ssd34.files.atomic import compute_sha256, write_bytes
from ssd34.machine import thread_budget
from ssd34.runtime.detector import DEFAULT_SCORE, Detector


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="a folder of pictures")
    parser.add_argument("--model", default="default")
    parser.add_argument("--pictures", type=int, default=400, help="the set is repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument(
        "--what", choices=("speed", "memory", "recovery", "stages"), default="speed"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = [options.source / file for file in open_source(str(options.source)).names]
        folder = repeat(files, Path(name) / "set", options.pictures)
        measures = {
            "speed": _speeds, "memory": _memory, "recovery": _recoveries, "stages": _stages,
        }  # fmt: skip
        rows = measures[options.what](folder, options)
    print_rows(rows, title=f"{options.pictures} pictures, {thread_budget()} processors")
    keep(options.json, rows, models=[options.model])


def repeat(files: Sequence[Path], folder: Path, count: int) -> Path:
    """So many links to copies of the files."""
    folder.mkdir()
    copies = [
        Path(shutil.copy(file, folder.parent / f"{folder.name}-{number}{file.suffix}"))
        for number, file in enumerate(files)
    ]
    for number, copy in zip(range(count), itertools.cycle(copies), strict=False):
        os.link(copy, folder / f"{number:07}{copy.suffix}")
    return folder


def _speeds(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Each way once a round, from the first pictures to the end: loading models and starting
    processes and Ray's cluster is left out."""
    runners = {"batch, 1 worker": Runner(workers=1), "batch, 2 workers": Runner(workers=2)}
    if not options.no_ray:
        runners["Ray, 2 actors"] = Runner(RAY, workers=2)
    ways: dict[str, Callable[[], float]] = {"detect": partial(_plain, folder, options.model)}
    for name, runner in runners.items():
        ways[name] = partial(_batch, folder, options.model, runner)
    # As the others; else what runs beside counts more.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():
            rates[name].append(run())
            print(f"{name}: {rates[name][-1]:.2f} pictures/s", file=sys.stderr)
    plain = statistics.median(rates["detect"])
    return [
        {
            "way": name,
            "pictures/s": round(statistics.median(every), 2),
            "of detect": round(statistics.median(every) / plain, 3),
            "rounds": ", ".join(f"{value:.1f}" for value in every),
        }
        for name, every in rates.items()
    ]


class _Clock(BatchListener):
    """When so many pictures were done."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None
        self.last = (0.0, 0)

    def moved(self, pictures: int, errors: int) -> None:  # noqa: ARG002
        """Another moment."""
        self.last = time.monotonic(), pictures
        self.first = self.first or self.last

    def rate(self) -> float:
        """Pictures a second from the first moment on."""
        assert self.first
        (start, before), (end, after) = self.first, self.last
        return (after - before) / (end - start)


def _plain(folder: Path, model: str) -> float:
    """The detector alone on all processors, the next picture read meanwhile; pictures a second."""
    clock = _Clock()
    detector = Detector.load(model)
    for done, _ in enumerate(detector.detect_many(sorted(folder.iterdir())), 1):
        clock.moved(done, 0)
    return clock.rate()


def _batch(folder: Path, model: str, runner: Runner) -> float:
    """Pictures a second."""
    clock = _Clock()
    _run_job(folder, model, runner, clock)
    return clock.rate()


def _run_job(folder: Path, model: str, runner: Runner, listener: BatchListener) -> None:
    with tempfile.TemporaryDirectory() as output:
        given = BatchOptions(model=model, part_size=10)
        run_batch(str(folder), Path(output), given, runner=runner, listener=listener)


class _Killer(BatchListener):
    """Kills something after a third of the pictures, and keeps when pictures are done."""

    def __init__(self, pictures: int, kill: Callable[[], object]) -> None:
        self.times: list[float] = []
        self._after, self._kill = pictures // 3, kill
        self._before = 0

    def moved(self, pictures: int, errors: int) -> None:  # noqa: ARG002
        """Another moment."""
        self.times.append(time.monotonic())
        if not self._before and pictures >= self._after:
            self._before = len(self.times)
            self._kill()

    def row(self, killed: str) -> dict[str, object]:
        """The longest waits."""
        waits = [after - before for before, after in itertools.pairwise(self.times)]
        return {
            "killed": killed,
            "longest wait for the next pictures before, s": round(
                max(waits[: self._before - 1]), 1
            ),
            "after, s": round(max(waits[self._before - 1 :]), 1),
        }


def _recoveries(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Of two workers on this machine, and of two nodes of Ray's on it, one is killed."""
    from ray.cluster_utils import Cluster

    def kill_worker() -> None:
        multiprocessing.active_children()[0].kill()

    worker = _Killer(options.pictures, kill_worker)
    _run_job(folder, options.model, Runner(workers=2), worker)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        node = _Killer(
            options.pictures, lambda: cluster.remove_node(nodes[0], allow_graceful=False)
        )
        _run_job(folder, options.model, Runner(RAY, address=cluster.address), node)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    return [worker.row("one of 2 workers"), node.row("one of 2 nodes of Ray's")]


def _memory(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Of this process and the largest worker, MB, at some moments of a job with parts of the usual
    size."""
    rows: list[dict[str, object]] = []
    over = threading.Event()
    clock = _Clock()

    def watch() -> None:
        started = time.monotonic()
        while not over.wait(0.5):
            own = _resident(os.getpid())
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            largest = max((_resident(int(pid)) for pid in children), default=0)
            rows.append(
                {
                    "s": round(time.monotonic() - started),
                    "pictures": clock.last[1],
                    "the command, MB": own,
                    "the largest worker, MB": largest,
                }
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        given = BatchOptions(model=options.model)
        with tempfile.TemporaryDirectory() as output:
            run_batch(str(folder), Path(output), given, listener=clock)
    finally:
        over.set()
        watcher.join()
    # The workers end before the command does.
    rows = [one for one in rows if 0 < cast(int, one["pictures"]) < options.pictures] or rows
    return [rows[k * (len(rows) - 1) // 10] for k in range(11)]


def _stages(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Processor time of one picture in each stage of a worker of one thread, and what a part costs
    the process that writes it."""
    job = plan_job(open_source(str(folder)), BatchOptions(options.model, part_size=10**6))
    worker = PartWorker(job.task, threads=1)
    detector = job.task.load(threads=1)
    stages = dict.fromkeys(("read", "decode, resize", "network", "pick"), 0.0)
    count = len(job.pictures)
    for picture in job.pictures.some(0, count):
        times = [time.process_time()]
        data = job.task.store.read(picture)
        times.append(time.process_time())
        prepared = detector.prepare(data)
        times.append(time.process_time())
        outputs = detector.compute(prepared)
        times.append(time.process_time())
        detector.finish(prepared, outputs, score=DEFAULT_SCORE)
        times.append(time.process_time())
        for name, (start, end) in zip(stages, itertools.pairwise(times), strict=True):
            stages[name] += 1000 * (end - start) / count
    started = time.process_time()
    part = worker.detect(0, job.pictures.some(0, count))
    stages["all, rows and Parquet included"] = 1000 * (time.process_time() - started) / count
    file = folder.parent / "part.parquet"
    started = time.process_time()
    for _ in range(20):
        write_bytes(file, part)
        read_facts(file, job.task, 0)
        compute_sha256(file)
    stages["the writing process, each part"] = 1000 * (time.process_time() - started) / 20
    rows: list[dict[str, object]] = [
        {"stage": name, "ms": round(value, 3)} for name, value in stages.items()
    ]
    return [*rows, {"stage": "bytes out for each picture", "ms": round(len(part) / count)}]


def _resident(pid: int) -> int:
    """MB of memory of a process; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


if __name__ == "__main__":
    main()
