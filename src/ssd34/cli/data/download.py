"""``ssd34 data download``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.progress import TaskID

from ssd34.cli.console import download_bar
from ssd34.datasets.download import PublishedData, published_data


@click.command("download", short_help="Download COCO 2017.")
@click.argument("name", metavar="coco-val2017|coco-2017")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("coco"),
    metavar="DIR", help="Folder of the data set.",
)  # fmt: skip
@click.option("--keep-archives", is_flag=True, help="Leave the zips in DIR/archives.")
def download_published(*, name: str, output: Path, keep_archives: bool) -> None:
    """Download COCO 2017 from its official addresses, check and unpack it.

    coco-val2017 is a download of 1.1 GB, coco-2017 (train and val) of 20.4 GB. The same command
    resumes a partial download.

    Example: ssd34 data download coco-val2017 --output coco
    """
    data = published_data(name)
    from ssd34.datasets.download import download_data

    with download_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            # The end is checked by its SHA-256, which takes a while.
            checking = 0 < total == done and not what.startswith("unpacking")
            text = f"checking {what}" if checking else what
            bar.update(tasks[what], completed=done, description=text)

        download_data(data, output, keep_archives=keep_archives, progress=show)
    for line in _next_steps(data, output):
        click.echo(line)


def _next_steps(data: PublishedData, folder: Path) -> list[str]:
    """Where the annotations are, and the commands that use them."""
    places = {split: shlex.quote(str(folder / file)) for split, file in data.splits.items()}
    val = places["val2017"]
    train = places.get("train2017")
    command = f"ssd34 evaluate default --data {val}"
    if train:
        command = f"ssd34 train --data {train} --val {val} --output runs/coco"
    return [*places.values(), f"next: {command}"]
