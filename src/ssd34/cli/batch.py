"""``ssd34 batch``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from ssd34.cli import PARTLY, console
from ssd34.cluster.job import BatchOptions
from ssd34.cluster.part import PartFacts
from ssd34.cluster.run import LOCAL, RUNNERS, BatchListener, Runner, run_batch
from ssd34.runtime.engine import DEFAULT_ENGINE, ENGINES
from ssd34.text import counted
from ssd34.workflows.outputs import check_kinds


class _Bar(BatchListener):
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def started(self, pictures: int, finished: PartFacts) -> None:
        self._bar.update(self._task, total=pictures, completed=finished.pictures)
        if finished.pictures:
            console.say(f"{counted(finished.pictures, 'picture')} were finished before")

    def moved(self, pictures: int, errors: int) -> None:
        text = f"detecting, {counted(errors, 'error')}" if errors else "detecting"
        self._bar.update(self._task, completed=pictures, description=text)

    def noted(self, text: str) -> None:
        console.say(text)


@click.command(short_help="Find objects in very many pictures; resumable, on Ray, too.")
@click.argument("source", type=console.PATH)
@click.option(
    "--output", type=console.FOLDER, metavar="DIR", required=True,
    help="Folder for the parts and the manifest: new, empty, or of the same job, which continues.",
)  # fmt: skip
@console.model_option
@console.score_option
@console.policy_option
@console.classes_option
@console.preprocess_option
@click.option("--engine", type=click.Choice(ENGINES), default=DEFAULT_ENGINE, help="What computes.")
@console.max_pixels_option
@click.option(
    "--column", metavar="NAME", help="Column of Parquet files with pictures or their paths."
)
@click.option(
    "--part-size", type=click.IntRange(1), metavar="N",
    help="Pictures of a part. [default: 32 to 1000, by the number of pictures]",
)  # fmt: skip
@click.option(
    "--runner", type=click.Choice(RUNNERS), default=LOCAL,
    help="local: processes on this machine. ray: actors on a Ray cluster.",
)  # fmt: skip
@click.option("--address", help="Ray cluster, such as auto or HOST:6379. [default: one of its own]")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N",
    help="Detectors at work. [default: as many as there are processors for]",
)  # fmt: skip
@click.option(
    "--threads", type=console.THREADS, metavar="N",
    help="Threads of each. [default: 1; with --workers the share of each, on this machine]",
)  # fmt: skip
@console.json_flag
def batch(
    *,
    source: str,
    output: Path,
    column: str | None,
    runner: str,
    address: str | None,
    workers: int | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find objects in very many pictures.

    SOURCE is a folder, a quoted pattern, a COCO .json, a .zip or .tar of pictures, Parquet with
    pictures or paths, or a URL. DIR gets Parquet parts and a manifest, the same for any number of
    workers. Interrupted or killed, the same command continues. An unreadable picture becomes a row
    with its error, and the exit code is 1.

    Example: ssd34 batch photos --output found
    """
    check_kinds(models=(options["model"],), data=(source,))
    where = Runner(runner, workers=workers, threads=threads, address=address)
    try:
        with console.progress_bar() as bar:
            found = run_batch(
                source, output, BatchOptions(**options), column=column, runner=where,
                listener=_Bar(bar),
            )  # fmt: skip
    except KeyboardInterrupt:
        console.warn("the parts that are finished stay; the same command continues behind them")
        raise
    console.say_done(found.done, "picture", found.seconds)
    if as_json:
        console.emit_json({**asdict(found), "folder": str(found.folder)})
    else:
        click.echo(
            f"{counted(found.pictures, 'picture')}, {counted(found.detections, 'detection')}, "
            f"{counted(found.errors, 'error')} in {counted(found.parts, 'part')}: {output}"
        )
    if found.errors:
        console.warn(f"why pictures could not be read is in the column error of {output}/parts")
        sys.exit(PARTLY)
