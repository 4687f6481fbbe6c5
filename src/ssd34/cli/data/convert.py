"""``ssd34 data convert``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from ssd34.cli import PARTLY
from ssd34.cli.console import (
    PATH,
    PRINTED,
    emit_json,
    file_of,
    json_option,
    progress_bar,
    warn,
    warn_of_problems,
)
from ssd34.datasets.convert.convert import FORMATS, Conversion, Options
from ssd34.datasets.convert.convert import convert as run_conversion
from ssd34.datasets.dataset import Dataset, Layout
from ssd34.datasets.open import find_dataset, rename_classes, split_path, use_coco_names
from ssd34.errors import OptionError
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs


@click.command(short_help="Write a data set in another format.")
@click.argument("sources", type=PATH, nargs=-1, required=True, metavar="[NAME=]SOURCE...")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to", "form", required=True, type=click.Choice(FORMATS), help="The format to write."
)
@click.option(
    "--split", "splits", multiple=True, metavar="NAME",
    help="Only this split of the sources; may be repeated. [default: all]",
)  # fmt: skip
@click.option(
    "--copy/--link", "copy", default=True, help="Copy the pictures, or make hard links to them."
)
@click.option(
    "--ignored", type=click.Choice(["leave-out", "as-objects"]), default="leave-out",
    help="What YOLO gets of crowd and difficult boxes, for which it has no flags.",
)  # fmt: skip
@click.option("--coco-names", is_flag=True, help="Use COCO's names for VOC's classes.")
@click.option(
    "--rename", "renames", multiple=True, metavar="OLD=NEW",
    help="Another name for a class; may be repeated. Classes of the same name become one.",
)  # fmt: skip
@json_option
def convert(
    *,
    sources: tuple[str, ...],
    destination: Path,
    form: str,
    splits: tuple[str, ...],
    copy: bool,
    ignored: str,
    coco_names: bool,
    renames: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Write the data set SOURCE, pictures included, into the new folder DESTINATION.

    SOURCE is a COCO, Pascal VOC or YOLO data set, PATH@SPLIT one split of it. NAME= is the name of
    the split in the destination. Several sources become the splits of one data set.

    Example: ssd34 data convert mine.zip mine-yolo --to yolo
    """
    names = dict(map(_pair, renames))
    wanted = _wanted(sources, splits, form)
    opened = [(name, _opened(layout, split)) for name, layout, split in wanted]
    check_outputs(
        (file_of(json_file),),
        data=[_named(source)[1] for source in sources],
        datasets=[dataset for _, dataset in opened],
    )
    if coco_names:
        opened = [(name, use_coco_names(dataset)) for name, dataset in opened]
    if names:
        opened = [(name, rename_classes(dataset, names)) for name, dataset in opened]
    options = Options(form, link=not copy, ignored_as_objects=ignored == "as-objects")
    with progress_bar() as bar:
        task = bar.add_task("converting", total=sum(len(dataset) for _, dataset in opened))
        done = run_conversion(
            opened, destination, options, progress=lambda n: bar.update(task, completed=n)
        )
    before = [problem for _, dataset in opened for problem in dataset.problems]
    warn_of_changes(done)
    if json_file != PRINTED:
        print_splits(done, destination)
    values = {"destination": str(destination), **done.to_dict()}
    values["assumed"] = [text for _, dataset in opened for text in dataset.assumed]
    values["left_out"] = [str(problem) for problem in before] + values["left_out"]
    emit_json(values, json_file)
    if before or done.problems:
        raise SystemExit(PARTLY)


def warn_of_changes(done: Conversion) -> None:
    """Warn of what was left out and changed."""
    for problem in done.problems:
        warn(f"left out {problem}")
    for loss, count in done.losses.items():
        warn(f"{count} x {loss}")


def print_splits(done: Conversion, destination: Path) -> None:
    """Print what each split holds, and where they are."""
    for name, pictures, boxes in done.splits:
        click.echo(f"{name or 'all'}: {counted(pictures, 'picture')}, {counted(boxes, 'box')}")
    click.echo(f"written: {destination} ({done.format})")


def _wanted(
    sources: Sequence[str], splits: Sequence[str], form: str
) -> list[tuple[str, Layout, str]]:
    """The splits to convert: each one's name in the destination, data set and name there.

    Raises:
        OptionError: no source has a split that was asked for; a split is named in two ways.
    """
    wanted: list[tuple[str, Layout, str]] = []
    for source in sources:
        given, path = _named(source)
        path, chosen = split_path(path)
        if chosen is not None and splits:
            raise OptionError(
                f"{source}: names a split, and so does --split; leave one of them out"
            )
        layout = find_dataset(path)
        if chosen is None:
            own = [name for name in layout.splits if not splits or name in splits]
        else:
            own = [chosen]
        if given and len(own) > 1:
            raise OptionError(
                f"{source}: holds the splits {', '.join(own)}; name one: {source}@{own[0]}"
            )
        if not own:
            warn(f"{source}: has none of the splits {', '.join(splits)}; left out")
        wanted += [(given, layout, name) for name in own]
    found = {name for _, _, name in wanted}
    for split in splits:
        if split not in found:
            raise OptionError(f"--split {split}: no source has it; see: ssd34 data info SOURCE")
    if form == "coco" and len(wanted) == 1:  # a whole, unless it was given a name
        return wanted
    return [(given or name, layout, name) for given, layout, name in wanted]


def _opened(layout: Layout, split: str) -> Dataset:
    dataset = layout.open(split)
    warn_of_problems(dataset)
    return dataset


def _named(source: str) -> tuple[str, str]:
    """NAME=PATH; a path that itself holds '=' is fine."""
    name, separator, path = source.partition("=")
    if not separator or Path(source).exists() or not re.fullmatch(r"\w[\w.-]*", name):
        return "", source
    return name, path


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not separator or not old or not new:
        raise OptionError(f"--rename {text}: expected OLD=NEW")
    return old, new
