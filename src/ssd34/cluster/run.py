"""A whole job: what is finished is kept, the rest is done, the manifest comes last."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssd34.cluster import job as jobs
from ssd34.cluster.job import PARTS, BatchJob, BatchOptions
from ssd34.cluster.local import Events, Finished, run_on_processes
from ssd34.cluster.on_ray import run_on_ray
from ssd34.cluster.part import PartFacts, read_facts
from ssd34.cluster.sources import open_source
from ssd34.errors import OptionError, require
from ssd34.files.atomic import compute_sha256, remove_parts, write_bytes, write_json
from ssd34.files.lock import folder_locked
from ssd34.machine import thread_budget

LOCAL = "local"
RAY = "ray"
RUNNERS = (LOCAL, RAY)

THREADS = 1
"""Of a worker, unless told otherwise: many small ones do more than few large ones, see
docs/batch.md."""


@dataclass(frozen=True)
class Runner:
    """Where a job runs; decides nothing about the content of its output.

    Attributes:
        name: one of `RUNNERS`.
        workers: detectors at work; None: as many as there are processors for.
        threads: of each; None: `THREADS`, or on this machine the share of each, where there are
            fewer workers than processors.
        address: of a Ray cluster; None: one on this machine for this job.
    """

    name: str = LOCAL
    workers: int | None = None
    threads: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in RUNNERS:
            raise OptionError(f"runner {self.name!r}: expected one of {', '.join(RUNNERS)}")
        if self.address is not None and self.name != RAY:
            raise OptionError(f"address {self.address}: only the runner {RAY} has one")
        if any(number is not None and number < 1 for number in (self.workers, self.threads)):
            raise OptionError("expected 1 worker and 1 thread or more")

    def run(self, job: BatchJob, parts: list[int], listener: BatchListener) -> Events:
        """Do some parts, in any order."""
        budget = thread_budget()
        if self.name == RAY:
            return run_on_ray(
                job, parts, address=self.address, workers=self.workers,
                threads=self.threads or THREADS, note=listener.noted,
            )  # fmt: skip
        workers = min(len(parts), self.workers or max(1, budget // (self.threads or THREADS)))
        threads = self.threads or max(1, budget // workers)
        return run_on_processes(job, parts, workers=workers, threads=threads)


class BatchListener:
    """Is told how a job goes on; does nothing."""

    def started(self, pictures: int, finished: PartFacts) -> None:
        """How many pictures there are, and what of them was there already."""

    def moved(self, pictures: int, errors: int) -> None:
        """Pictures that are done, those from before included, and those with errors."""

    def noted(self, text: str) -> None:
        """What goes on in the cluster, for a reader."""


@dataclass(frozen=True)
class FinishedBatch:
    """A finished job.

    Attributes:
        folder: with the parts and the manifest.
        parts: how many there are.
        kept: how many of them were there before.
        pictures: rows in all of them.
        errors: pictures that could not be read.
        detections: objects found.
        seconds: that this run took.
        done: pictures of this run.
    """

    folder: Path
    parts: int
    kept: int
    pictures: int
    errors: int
    detections: int
    seconds: float
    done: int


def run_batch(
    source: str | Path,
    output: str | Path,
    options: BatchOptions | None = None,
    *,
    column: str | None = None,
    runner: Runner | None = None,
    listener: BatchListener | None = None,
) -> FinishedBatch:
    """Detect in many pictures; the output is ``parts/*.parquet`` and a manifest.

    The output is the same for any runner and any number of workers. Interrupted or killed, the
    same call continues behind the parts that are finished.

    Args:
        source: see `ssd34.cluster.sources.FORMS`.
        output: a folder that is empty, missing, or of the same job.
        options: what to detect.
        column: of Parquet files, see `open_source`.
        runner: where; None: on the processors of this machine.
        listener: is told how it goes on.

    Raises:
        Ssd34Error: as `open_source`, `plan_job` and the runner; OptionError: another job is in
            the folder, or another process is writing there.
        OSError: the folder cannot be written.
    """
    for module in ("pyarrow", "pyarrow.parquet"):
        require(module, extra="batch", why="ssd34 batch")
    listener, output = listener or BatchListener(), Path(output)
    job = jobs.plan_job(open_source(str(source), column=column), options or BatchOptions())
    with folder_locked(output):
        jobs.claim_folder(output, job)
        return _run(job, output, runner or Runner(), listener)


def part_name(part: int) -> str:
    """The file of a part."""
    return f"part-{part:06}.parquet"


def _run(job: BatchJob, output: Path, runner: Runner, listener: BatchListener) -> FinishedBatch:
    started = time.monotonic()
    folder = output / PARTS
    folder.mkdir(exist_ok=True)
    numbers = range(len(job.starts))
    remove_parts(output, [jobs.JOB_FILE, jobs.MANIFEST])
    remove_parts(folder, [part_name(part) for part in numbers])
    facts = {part: read_facts(folder / part_name(part), job.task, part) for part in numbers}
    done = {part: one for part, one in facts.items() if one and one.pictures == job.size(part)}
    kept = len(done)
    before = _sum(done)
    listener.started(len(job.pictures), before)
    under_way: dict[int, tuple[int, int]] = {}
    if rest := [part for part in numbers if part not in done]:
        with closing(runner.run(job, rest, listener)) as events:
            for event in events:
                if isinstance(event, Finished):
                    write_bytes(folder / part_name(event.part), event.data)
                    found = read_facts(folder / part_name(event.part), job.task, event.part)
                    assert found is not None
                    done[event.part] = found
                    under_way.pop(event.part, None)
                else:
                    under_way[event.part] = (event.pictures, event.errors)
                total = _sum(done)
                listener.moved(
                    total.pictures + sum(pictures for pictures, _ in under_way.values()),
                    total.errors + sum(errors for _, errors in under_way.values()),
                )
    total = _sum(done)
    parts = [
        {"file": f"{PARTS}/{part_name(part)}", **asdict(done[part]),
         "sha256": compute_sha256(folder / part_name(part))}
        for part in numbers
    ]  # fmt: skip
    manifest: dict[str, Any] = {
        **job.facts,
        "labels": job.labels.to_dict(),
        "errors": total.errors,
        "detections": total.detections,
        "parts": parts,
    }
    write_json(output / jobs.MANIFEST, manifest)
    return FinishedBatch(
        output, len(numbers), kept, total.pictures, total.errors, total.detections,
        time.monotonic() - started, total.pictures - before.pictures,
    )  # fmt: skip


def _sum(parts: dict[int, PartFacts]) -> PartFacts:
    every = parts.values()
    return PartFacts(
        sum(one.pictures for one in every),
        sum(one.errors for one in every),
        sum(one.detections for one in every),
    )
