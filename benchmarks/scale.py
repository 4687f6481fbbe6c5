"""What very many pictures cost on many nodes: stages that are measured here, a job's course that is
computed from them, and jobs that ran, with which the computation is compared.

    python benchmarks/scale.py examples
    python benchmarks/tables.py
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from batch import repeat
from PIL import Image
from tables import MEASURED, keep, row, say_how

from ssd34.cluster.job import BatchJob, BatchOptions, plan_job
from ssd34.cluster.local import Events, Finished
from ssd34.cluster.part import PartWorker
from ssd34.cluster.run import BatchListener, Runner, run_batch
from ssd34.cluster.sources import open_source
from ssd34.text import counted

FILE = MEASURED / "scale.json"

PART = 1000
"""Pictures of a part, in jobs of 64,000 and more."""

PROCESSORS = 32
"""Of a node."""

LINK = 1.25e9
"""Bytes a second of the storage that all nodes read from: 10 Gbit/s."""

NODES = (1, 10, 100)

MANY = 10**6

ALL, NETWORK, DECODE = "all, rows and Parquet included", "network", "decode, resize"
"""Stages, as batch.py calls them."""


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder of JPEG files")
    parser.add_argument("--model", default="default")
    parser.add_argument("--pictures", type=int, default=400, help="the set is repeated")
    parser.add_argument(
        "--listed", type=int, default=100, help="thousands of pictures that are listed"
    )
    parser.add_argument("--waits", type=int, default=8, help="of each worker that only waits")
    parser.add_argument("--rounds", type=int, default=3, help="of the jobs that are compared")
    parser.add_argument("--json", type=Path, default=FILE, help="where the numbers are kept")
    values = measure(parser.parse_args())
    keep(values.pop("file"), values.pop("jobs"), models=[values["model"]], **values)


# --- a job's course -------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What a job takes, in seconds.

    Attributes:
        fixed: a job of one picture, from the command's start to its end.
        listing: for each picture, before the first one is read.
        picture: of one processor, for each.
        bytes: to read, of each; no seconds.
        part: of the command, which writes the parts, for each.
    """

    fixed: float
    listing: float
    picture: float
    bytes: float
    part: float


@dataclass(frozen=True)
class Course:
    """How a job goes: its seconds, and the share of them in which each of its means is at work."""

    seconds: float
    busy: Mapping[str, float]


def follow(
    pictures: int, costs: Costs, *, workers: int, part: int = PART, storage: float = LINK
) -> Course:
    """A job, event by event, as `ssd34.cluster` does it: a worker is given a part; when that is
    done, the command writes it, one after the other, and only then gives the worker the next.

    Args:
        pictures: all of them.
        costs: of the stages.
        workers: of one processor each.
        part: pictures of a part.
        storage: bytes a second for all workers; it serves the parts in the order of their begin.
    """
    sizes = [part] * (pictures // part) + [pictures % part] * (pictures % part > 0)
    start = costs.fixed + pictures * costs.listing
    served = written = start
    under_way: list[tuple[float, int]] = []
    waiting = iter(enumerate(sizes))

    def begin(now: float, number: int, size: int) -> None:
        nonlocal served
        served = max(served, now) + size * costs.bytes / storage
        heapq.heappush(under_way, (max(now + size * costs.picture, served), number))

    for _, given in zip(range(workers), waiting, strict=False):
        begin(start, *given)
    while under_way:
        done, _ = heapq.heappop(under_way)
        written = max(written, done) + costs.part
        for given in waiting:
            begin(written, *given)
            break
    busy = {
        "processors": pictures * costs.picture / workers,
        "storage": pictures * costs.bytes / storage,
        "writing": len(sizes) * costs.part,
        "listing": start,
    }
    return Course(written, {name: seconds / written for name, seconds in busy.items()})


# --- measuring ------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What the tables need."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = sorted(options.source.glob("*.jpg"))
        one, few = repeat(files, work / "one", 1), repeat(files, work / "few", options.pictures)
        stages = measure_stages(options, work / "stages.json")
        return {
            "file": options.json,
            "model": Path(options.model).name,
            "stages_ms": stages,
            "picture_bytes": round(statistics.mean(file.stat().st_size for file in files)),
            "photograph": measure_photograph(files[0], options.model),
            **measure_command(files, options.model, work, parts=options.listed),
            "fixed_s": min(seconds_of(one, options.model, 1, 1) for _ in range(3)),
            "nodes": measure_nodes(files, options, work, picture=stages[ALL] / 1000),
            "jobs": measure_jobs(few, options),
        }


def measure_stages(options: argparse.Namespace, file: Path) -> dict[str, float]:
    """Milliseconds of processor time of each stage of a worker, by batch.py."""
    subprocess.run(
        [sys.executable, Path(__file__).with_name("batch.py"), options.source,
         "--pictures", str(min(200, options.pictures)), "--model", options.model,
         "--what", "stages", "--json", file],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {row["stage"]: row["ms"] for row in rows}


def measure_photograph(file: Path, model: str) -> dict[str, float]:
    """Processor time of decoding and resizing a picture of 12 megapixels, and its bytes."""
    with Image.open(file) as opened:
        large = np.asarray(opened.convert("RGB").resize((4000, 3000)), np.int16)
    grain = np.random.default_rng(0).normal(0, 6, large.shape)
    stream = io.BytesIO()
    pixels = np.clip(large + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    detector = BatchOptions(model).load(threads=1)
    detector.prepare(stream.getvalue())
    started, rounds = time.process_time(), 10
    for _ in range(rounds):
        detector.prepare(stream.getvalue())
    spent = time.process_time() - started
    return {"decode_ms": 1000 * spent / rounds, "bytes": len(stream.getvalue())}


def seconds_of(folder: Path, model: str, workers: int, part: int) -> float:
    """A whole job."""
    given = BatchOptions(model=model, part_size=part)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as output:
        run_batch(str(folder), Path(output), given, runner=Runner(workers=workers, threads=1))
        return time.monotonic() - started


def measure_jobs(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Jobs with one worker and with two, in turns."""
    part = max(1, options.pictures // 20)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for workers, every in seconds.items():
            every.append(seconds_of(folder, options.model, workers, part))
            print(f"{counted(workers, 'worker')}: {every[-1]:.1f} s", file=sys.stderr)
    return [
        {"workers": workers, "pictures": options.pictures, "part": part, "seconds": every}
        for workers, every in seconds.items()
    ]


@dataclass(frozen=True)
class Waiting(Runner):
    """Workers that wait as long as a part would take them; what they give is there already."""

    data: tuple[bytes, ...] = ()
    seconds: float = 0.0

    def run(self, job: BatchJob, parts: list[int], listener: BatchListener) -> Events:  # noqa: ARG002
        """In the order in which `ssd34.cluster` gives and takes them."""
        assert self.workers
        waiting = iter(parts)
        now = time.monotonic()
        under_way = [(now + self.seconds, k) for _, k in zip(range(self.workers), waiting)]  # noqa: B905
        while under_way:
            done, part = heapq.heappop(under_way)
            time.sleep(max(0.0, done - time.monotonic()))
            yield Finished(part, self.data[part])
            for part in waiting:
                heapq.heappush(under_way, (time.monotonic() + self.seconds, part))
                break


class Start(BatchListener):
    """When everything was listed."""

    at = 0.0

    def started(self, *_: object) -> None:
        """Now."""
        self.at = time.monotonic()


def measure_command(files: list[Path], model: str, work: Path, *, parts: int) -> dict[str, Any]:
    """What the command itself does: list pictures, and write parts as fast as they come."""
    folder = repeat(files, work / "listed", parts * PART)
    started = time.monotonic()
    listed = len(open_source(str(folder)))
    return {
        "listing_us": 1e6 * (time.monotonic() - started) / listed,
        **measure_writing(files, model, work / "written", parts=parts, workers=1, seconds=0),
    }


def measure_writing(
    files: list[Path], model: str, work: Path, *, parts: int, workers: int, seconds: float
) -> dict[str, Any]:
    """The command with workers that wait so long for each part; a part is of `PART` rows, for which
    one picture stands."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    work.mkdir()
    folder = repeat(files, work / "set", parts)
    given = BatchOptions(model=model, part_size=1)
    pictures = open_source(str(folder))
    job = plan_job(pictures, given)
    few = PartWorker(job.task, threads=1).detect(0, pictures.some(0, min(40, parts)))
    rows = pq.read_table(io.BytesIO(few))
    table = pa.concat_tables([rows] * (PART // len(rows)))
    [key] = table.schema.metadata
    data = []
    for part in range(parts):
        stream = io.BytesIO()
        own = table.replace_schema_metadata({key: f"{job.task.identity} {part}".encode()})
        pq.write_table(own, stream, compression="zstd")
        data.append(stream.getvalue())
    clock = Start()
    runner = Waiting(workers=workers, data=tuple(data), seconds=seconds)
    done = run_batch(str(folder), work / "out", given, runner=runner, listener=clock)
    assert done.pictures == parts * len(table)
    return {"part_s": (time.monotonic() - clock.at) / parts}


def measure_nodes(
    files: list[Path], options: argparse.Namespace, work: Path, *, picture: float
) -> list[dict[str, Any]]:
    """The command as it is with many nodes: parts come as often, each from a worker that waits; a
    hundredth of the workers, with a hundredth of the pictures in a part."""
    found = []
    for nodes in (10, 100, 1000):
        workers = max(1, nodes * PROCESSORS // 100)
        seconds, parts = picture * PART / 100, options.waits * workers
        told = measure_writing(
            files, options.model, work / f"{nodes}", parts=parts, workers=workers, seconds=seconds
        )
        found.append(
            {"nodes": nodes, "workers": workers, "parts": parts, "waits_s": seconds,
             "seconds": told["part_s"] * parts}
        )  # fmt: skip
    return found


# --- tables ---------------------------------------------------------------------------------


def costs_of(values: Mapping[str, Any]) -> Costs:
    """As measured."""
    return Costs(
        fixed=values["fixed_s"],
        listing=values["listing_us"] / 1e6,
        picture=values["stages_ms"][ALL] / 1000,
        bytes=values["picture_bytes"],
        part=values["part_s"],
    )


def tables(values: dict[str, Any]) -> dict[str, str]:
    """The text of each table, by its name."""
    made = {
        "picture": _picture(values),
        "checked": _checked(values),
        "course": _course(costs_of(values)),
        "limits": _limits(values),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _picture(values: dict[str, Any]) -> list[str]:
    stages = values["stages_ms"]
    rows = [
        ("read the file, from the disk's cache", f"{stages['read']:.2f} ms"),
        ("decode, resize", f"{stages[DECODE]:.1f} ms"),
        ("network", f"{stages[NETWORK]:.1f} ms"),
        ("pick", f"{stages['pick']:.1f} ms"),
        ("all of a worker: these, rows, Parquet", f"{stages[ALL]:.1f} ms"),
        ("the command lists the picture", f"{values['listing_us'] / 1000:.3f} ms"),
        (f"the command writes a part of {PART} pictures", f"{1000 * values['part_s']:.1f} ms"),
        ("a job of one picture, from start to end", f"{values['fixed_s']:.1f} s"),
        ("bytes to read", f"{values['picture_bytes'] / 1000:.0f} kB"),
    ]  # fmt: skip
    head = [row(f"one picture, `{values['model']}`, one processor", ""), row("---", "---")]
    return [*head, *(row(*cells) for cells in rows), "", say_how(values)]


def _checked(values: dict[str, Any]) -> list[str]:
    costs = costs_of(values)
    lines = [
        row("job", "measured: median (least to most)", "computed", "computed / measured"),
        row(*["---"] * 4),
    ]
    for job in values["rows"]:
        measured = statistics.median(job["seconds"])
        given = {"workers": job["workers"], "part": job["part"]}
        computed = follow(job["pictures"], costs, **given).seconds
        lines.append(
            row(
                f"{job['pictures']} pictures, {counted(job['workers'], 'worker')}",
                f"{measured:.1f} s ({min(job['seconds']):.1f} to {max(job['seconds']):.1f})",
                f"{computed:.1f} s",
                f"{computed / measured:.2f}",
            )
        )
    for job in values["nodes"]:
        # A part is one picture here, and nothing is read.
        alone = Costs(fixed=0, listing=0, picture=job["waits_s"], bytes=0, part=costs.part)
        computed = follow(job["parts"], alone, workers=job["workers"], part=1).seconds
        lines.append(
            row(
                f"{job['parts']} parts, as often as from {job['nodes']} nodes",
                f"{job['seconds']:.1f} s",
                f"{computed:.1f} s",
                f"{computed / job['seconds']:.2f}",
            )
        )
    return lines


def _course(costs: Costs) -> list[str]:
    lines = [
        row("pictures", *(counted(n, "node") for n in NODES), "hours of a node"),
        row(*["---"] * (len(NODES) + 2)),
    ]
    for millions, part in ((1, PART), (1, 100), (10, PART), (100, PART)):
        every = millions * MANY
        courses = [follow(every, costs, workers=n * PROCESSORS, part=part) for n in NODES]
        name = f"{millions} million" + (f", `--part-size {part}`" if part != PART else "")
        hours = every * costs.picture / PROCESSORS / 3600
        lines.append(row(name, *map(_told, courses), _two(hours)))
    return lines


def _told(course: Course) -> str:
    """How long it takes, and the two that are busiest."""
    busiest = sorted(course.busy.items(), key=lambda one: -one[1])[:2]
    return "; ".join(
        [_time(course.seconds), *(f"{name} {100 * share:.0f} %" for name, share in busiest)]
    )


def _time(seconds: float) -> str:
    """In the unit that gives two digits."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{_two(seconds / size)} {unit}"
    return f"{seconds:.0f} s"


def _two(value: float) -> str:
    """Two digits that count."""
    return f"{float(f'{value:.2g}'):g}"


def _limits(values: dict[str, Any]) -> list[str]:
    """From how many nodes on other things than processors are the limit, for some kinds of jobs."""
    base, photograph, stages = costs_of(values), values["photograph"], values["stages_ms"]
    network = stages[NETWORK] / 1000
    decoding = (photograph["decode_ms"] - stages[DECODE]) / 1000
    large = replace(base, picture=base.picture + decoding, bytes=photograph["bytes"])
    photographs = f"photographs of 12 megapixels, {photograph['bytes'] / 1e6:.1f} MB"
    lines = [
        row("job", "ms a picture", "of it the network", "pictures/s of a node",
            "reading is the limit from", "writing is the limit from"),
        row(*["---"] * 6),
    ]  # fmt: skip
    for name, costs, times in (
        ("as measured", base, 1),
        (photographs, large, 1),
        ("as measured, a network ten times as fast", base, 10),
        (f"{photographs}, and such a network", large, 10),
    ):
        picture = costs.picture - network + network / times
        rate = PROCESSORS / picture
        lines.append(
            row(
                name,
                _two(1000 * picture),
                f"{100 * network / times / picture:.0f} %",
                _two(rate),
                f"{_two(LINK / costs.bytes / rate)} nodes",
                f"{_two(PART / costs.part / rate)} nodes",
            )
        )
    return lines


if __name__ == "__main__":
    main()
