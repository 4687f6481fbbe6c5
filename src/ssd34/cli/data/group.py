"""``ssd34 data``: look at data sets and change their form."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from ssd34.cli import PARTLY, console
from ssd34.cli.data.check import check_data
from ssd34.cli.data.convert import convert, split
from ssd34.cli.data.label import label
from ssd34.datasets.check.statistics import count_statistics
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.download import PUBLISHED_DATA, PublishedData, find_published_data
from ssd34.datasets.open import find_dataset, split_path

_FIELDS = ("pictures", "empty", "boxes", "crowd", "difficult", "left_out")


@click.command(short_help="Show what a data set holds.")
@click.argument("path", type=console.PATH)
@console.json_flag
def info(*, path: str, as_json: bool) -> None:
    """Show what the data set PATH holds: format, splits, pictures, boxes and classes.

    Example: ssd34 data info VOCdevkit/VOC2007
    """
    source, chosen = split_path(path)
    layout = find_dataset(source)
    names = layout.splits if chosen is None else (chosen,)
    datasets = {name: layout.open(name) for name in names}
    counts = {name: _counts(dataset) for name, dataset in datasets.items()}
    if as_json:
        for dataset in datasets.values():
            console.warn_of_assumptions(dataset)
        console.emit_json({"path": path, "format": layout.format, "splits": counts})
    else:
        for dataset in datasets.values():
            console.warn_of_problems(dataset)
        out = Console(highlight=False, markup=False, emoji=False)
        out.print(f"{layout.format} data set")
        splits = Table("split", *(field.replace("_", " ") for field in _FIELDS))
        classes = Table("class", "id", *(f"boxes of {name or 'all'}" for name in names))
        for column in (*splits.columns[1:], *classes.columns[1:]):
            column.justify = "right"
        for name, values in counts.items():
            splits.add_row(name or "all", *(str(values[field]) for field in _FIELDS))
        rows: dict[tuple[str, int], dict[str, int]] = {}
        for split, values in counts.items():
            for entry in values["classes"]:
                rows.setdefault((entry["name"], entry["id"]), {})[split] = entry["boxes"]
        for (name, category), boxes in rows.items():
            classes.add_row(Text(name), str(category), *(str(boxes.get(s, "-")) for s in names))
        out.print(splits)
        out.print(classes)
    if any(dataset.problems for dataset in datasets.values()):
        raise SystemExit(PARTLY)


def _counts(dataset: Dataset) -> dict[str, Any]:
    """What one split holds; the JSON form of it."""
    counted = count_statistics(dataset)
    return {
        "pictures": counted.pictures,
        "empty": len(counted.empty),
        "boxes": counted.boxes,
        "crowd": counted.crowd,
        "difficult": counted.difficult,
        "left_out": len(dataset.problems),
        "problems": [str(problem) for problem in dataset.problems],
        "classes": [
            {"name": one.name, "id": one.category_id, "boxes": one.boxes} for one in counted.classes
        ],
    }


@click.command("download", short_help="Download COCO 2017.")
@click.argument(
    "name", type=console.CompletedText(lambda: [*PUBLISHED_DATA], files=False),
    metavar="coco-val2017|coco-2017",
)  # fmt: skip
@click.option(
    "--output", type=console.FOLDER, default=Path("coco"), metavar="DIR",
    help="Folder of the data set.",
)  # fmt: skip
@click.option("--keep-archives", is_flag=True, help="Leave the zips in DIR/archives.")
@console.json_flag
def download_published(*, name: str, output: Path, keep_archives: bool, as_json: bool) -> None:
    """Download COCO 2017 from its official addresses, check and unpack it.

    coco-val2017 is a download of 1.1 GB, coco-2017 (train and val) of 20.4 GB. The same command
    resumes a partial download.

    Example: ssd34 data download coco-val2017 --output coco
    """
    data = find_published_data(name)
    from ssd34.datasets.download import download_data

    with console.download_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            # The end is checked by its SHA-256, which takes a while.
            checking = 0 < total == done and not what.startswith("unpacking")
            text = f"checking {what}" if checking else what
            bar.update(tasks[what], completed=done, description=text)

        download_data(data, output, keep_archives=keep_archives, progress=show)
    if as_json:
        splits = {split: str(output / file) for split, file in data.splits.items()}
        console.emit_json({"name": name, "output": str(output), "splits": splits})
        return
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


@click.group(short_help="Look at data sets, check, convert, split, make and download them.")
def data() -> None:
    """Look at data sets, check, convert, split, make and download them.

    COCO, Pascal VOC and YOLO, in folders and zips. The format is recognised.
    """


for command in (info, check_data, convert, split, label, download_published):
    data.add_command(command)
