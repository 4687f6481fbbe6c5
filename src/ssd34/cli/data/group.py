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
from ssd34.cli.data.convert import convert, print_splits, split, warn_of_changes
from ssd34.datasets.check import count_statistics
from ssd34.datasets.convert.convert import FORMATS, Options, check_destination
from ssd34.datasets.convert.convert import convert as run_conversion
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.download import PUBLISHED_DATA, PublishedData, find_published_data
from ssd34.datasets.open import find_dataset, split_path
from ssd34.errors import OptionError
from ssd34.images.sources import find_pictures
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.workflows.outputs import check_outputs


@click.command(short_help="Annotate pictures with a model's detections.")
@click.argument("sources", type=console.PATH, nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--model", type=console.MODEL, help="An ONNX file, or the name of a model. [default: default]"
)
@click.option(
    "--detections", type=console.FILE, metavar="FILE",
    help="Take another detector's: COCO's results JSON, instead of --model.",
)  # fmt: skip
@click.option(
    "--output", type=console.FILE, required=True, metavar="DIR",
    help="A new folder for the data set.",
)  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="coco", help="Its format.")
@click.option(
    "--score", type=console.SHARE, default=DEFAULT_SCORE,
    help="Detections that score so much become objects.",
)  # fmt: skip
@click.option(
    "--uncertain", type=console.SHARE, metavar="SCORE",
    help="Those from here to --score become difficult: neither object nor background for training. "
    "[default: they are left out]",
)  # fmt: skip
@console.threads_option
@console.engine_option
@console.json_option
def label(
    *,
    sources: tuple[str, ...],
    model: str | None,
    detections: Path | None,
    output: Path,
    form: str,
    score: float,
    uncertain: float | None,
    threads: int | None,
    engine: str | None,
    json_file: Path | None,
) -> None:
    """Make a data set of pictures that nobody has annotated, with the detections of a model.

    SOURCE is as for detect. Correct the result in a labelling tool, or train on it: a stronger
    detector's findings can teach this one.

    Example: ssd34 data label photos --output photos-labelled --uncertain 0.2
    """
    from ssd34.runtime.engine import DEFAULT_ENGINE
    from ssd34.workflows.label import Labelling, label_with_model, label_with_results

    if detections is not None and (model, threads, engine) != (None, None, None):
        raise OptionError("--detections: no model runs; leave out --model, --engine and --threads")
    how, options = Labelling(score=score, uncertain=uncertain), Options(form)
    check_destination(output, options)
    pictures = find_pictures(sources)
    read = [picture.path for picture in pictures] + ([detections] if detections else [])
    check_outputs((console.file_of(json_file),), files=read, models=(model or "default",))
    with console.progress_bar() as bar:
        if detections is not None:
            dataset = label_with_results(pictures, detections, how)
        else:
            detector = Detector.load(
                model or "default", threads=threads, engine=engine or DEFAULT_ENGINE
            )
            console.say_choice(detector.session)
            looked = console.count_on(bar, "detecting", len(pictures))
            dataset = label_with_model(pictures, detector, how, progress=looked)
        written = console.count_on(bar, "writing", len(dataset))
        done = run_conversion([("", dataset)], output, options, progress=written)
    for problem in dataset.problems:
        console.warn(f"left out {problem}")
    warn_of_changes(done)
    sure = sum(int((~one.difficult).sum()) for one in dataset.samples)
    unsure = sum(len(s.boxes) for s in dataset.samples) - sure
    if json_file != console.PRINTED:
        print_splits(done, output)
        click.echo(f"{sure} objects, {unsure} uncertain")
    values = {"destination": str(output), **done.to_dict()}
    values["left_out"] = [str(one) for one in dataset.problems] + values["left_out"]
    console.emit_json({**values, "objects": sure, "uncertain": unsure}, json_file)
    if dataset.problems or done.problems:
        raise SystemExit(PARTLY)


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
    datasets = layout.open_all(layout.splits) if chosen is None else {chosen: layout.open(chosen)}
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
        classes = Table("class", "id", *(f"boxes of {name or 'all'}" for name in counts))
        for column in (*splits.columns[1:], *classes.columns[1:]):
            column.justify = "right"
        for name, values in counts.items():
            splits.add_row(name or "all", *(str(values[field]) for field in _FIELDS))
        rows: dict[tuple[str, int], dict[str, int]] = {}
        for split, values in counts.items():
            for entry in values["classes"]:
                rows.setdefault((entry["name"], entry["id"]), {})[split] = entry["boxes"]
        for (name, category), boxes in rows.items():
            classes.add_row(Text(name), str(category), *(str(boxes.get(s, "-")) for s in counts))
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
