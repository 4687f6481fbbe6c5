"""``ssd34 data convert`` and ``split``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from ssd34.cli import PARTLY, console
from ssd34.datasets.check import count_statistics
from ssd34.datasets.convert.convert import FORMATS, Conversion, Options, check_destination
from ssd34.datasets.convert.convert import convert as run_conversion
from ssd34.datasets.convert.divide import Shares, divide, group_scenes
from ssd34.datasets.dataset import Dataset, Layout
from ssd34.datasets.open import find_dataset, rename_classes, split_path, use_coco_names
from ssd34.errors import OptionError
from ssd34.machine import thread_budget
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs

_copy_option = click.option(
    "--copy/--link", "copy", default=True, help="Copy the pictures, or make hard links to them."
)


@click.command(short_help="Write a data set in another format.")
@click.argument("sources", type=console.PATH, nargs=-1, required=True, metavar="[NAME=]SOURCE...")
@click.argument("destination", type=console.FILE)
@click.option(
    "--to", "form", required=True, type=click.Choice(FORMATS), help="The format to write."
)
@click.option(
    "--split", "splits", type=console.NAME, multiple=True, metavar="NAME",
    help="Only this split of the sources; may be repeated. [default: all]",
)  # fmt: skip
@_copy_option
@click.option(
    "--ignored", type=click.Choice(["leave-out", "as-objects"]), default="leave-out",
    help="What YOLO gets of crowd and difficult boxes, for which it has no flags.",
)  # fmt: skip
@click.option("--coco-names", is_flag=True, help="Use COCO's names for VOC's classes.")
@click.option(
    "--rename", "renames", multiple=True, metavar="OLD=NEW",
    help="Another name for a class; may be repeated. Classes of the same name become one.",
)  # fmt: skip
@console.json_option
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
    opened = _opened(_wanted(sources, splits), form)
    check_outputs(
        (console.file_of(json_file),),
        data=[_named(source)[1] for source in sources],
        datasets=[dataset for _, dataset in opened],
    )
    if coco_names:
        opened = [(name, use_coco_names(dataset)) for name, dataset in opened]
    if names:
        opened = [(name, rename_classes(dataset, names)) for name, dataset in opened]
    options = Options(form, link=not copy, ignored_as_objects=ignored == "as-objects")
    usable = [(name, dataset) for name, dataset in opened if len(dataset)]
    with console.progress_bar() as bar:
        counts = console.count_on(bar, "converting", sum(len(dataset) for _, dataset in usable))
        done = run_conversion(usable, destination, options, progress=counts)
    before = [problem for _, dataset in opened for problem in dataset.problems]
    warn_of_changes(done)
    if json_file != console.PRINTED:
        print_splits(done, destination)
    values = {"destination": str(destination), **done.to_dict()}
    values["assumed"] = [text for _, dataset in opened for text in dataset.assumed]
    values["left_out"] = [str(problem) for problem in before] + values["left_out"]
    console.emit_json(values, json_file)
    if before or done.problems:
        raise SystemExit(PARTLY)


def warn_of_changes(done: Conversion) -> None:
    """Warn of what was left out and changed."""
    for problem in done.problems:
        console.warn(f"left out {problem}")
    for loss, count in done.losses.items():
        console.warn(f"{count} x {loss}")


def print_splits(done: Conversion, destination: Path) -> None:
    """Print what each split holds, and where they are."""
    for name, pictures, boxes in done.splits:
        click.echo(f"{name or 'all'}: {counted(pictures, 'picture')}, {counted(boxes, 'box')}")
    click.echo(f"written: {destination} ({done.format})")


def _wanted(
    sources: Sequence[str], splits: Sequence[str]
) -> list[tuple[str, Layout, list[str], bool]]:
    """What to convert: each source's name in the destination, data set and splits there, and
    whether these were asked for. OptionError: no source has a split that was asked for; a split is
    named in two ways."""
    wanted: list[tuple[str, Layout, list[str], bool]] = []
    for source in sources:
        given, path = _named(source)
        path, chosen = split_path(path)
        if chosen is not None and splits:
            raise OptionError(
                f"{source}: names a split, and so does --split; leave one of them out"
            )
        layout = find_dataset(path)
        if chosen is None:
            known = (*layout.splits, *layout.others) if splits else layout.splits
            own = [name for name in known if not splits or name in splits]
        else:
            own = [chosen]
        if given and len(own) > 1:
            raise OptionError(
                f"{source}: holds the splits {', '.join(own)}; name one: {source}@{own[0]}"
            )
        if not own:
            console.warn(f"{source}: has none of the splits {', '.join(splits)}; left out")
        wanted.append((given, layout, own, bool(splits) or chosen is not None))
    found = {name for _, _, own, _ in wanted for name in own}
    for split in splits:
        if split not in found:
            raise OptionError(f"--split {split}: no source has it; see: ssd34 data info SOURCE")
    return wanted


def _opened(
    wanted: Sequence[tuple[str, Layout, list[str], bool]], form: str
) -> list[tuple[str, Dataset]]:
    """The splits by their names in the destination; those that were asked for can be used."""
    # A whole, unless it was given a name.
    whole = form == "coco" and sum(len(own) for _, _, own, _ in wanted) == 1
    opened = []
    for given, layout, own, asked in wanted:
        datasets = {s: layout.open(s) for s in own} if asked else layout.open_all(own)
        for split, dataset in datasets.items():
            console.warn_of_problems(dataset)
            opened.append((given if whole else given or split, dataset))
    return opened


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


@click.command(short_help="Divide a data set into train and val.")
@click.argument("source", type=console.PATH)
@click.argument("destination", type=console.FILE)
@click.option("--val", type=float, default=0.2, help="Share of the pictures to measure on.")
@click.option("--test", type=float, help="Share of a third part. [default: none]")
@click.option(
    "--to", "form", type=click.Choice(FORMATS),
    help="The format to write. [default: that of SOURCE]",
)  # fmt: skip
@click.option(
    "--together", "pattern", metavar="REGEX",
    help="Keep pictures together in whose file names this matches the same text, such as "
    "'^(.+)_frame'.",
)  # fmt: skip
@click.option(
    "--near/--no-near", default=True,
    help="Keep pictures together that look alike, such as frames of one film.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Another one, other parts.")
@_copy_option
@console.json_option
def split(
    *,
    source: str,
    destination: Path,
    val: float,
    test: float | None,
    form: str | None,
    pattern: str | None,
    near: bool,
    seed: int,
    copy: bool,
    json_file: Path | None,
) -> None:
    """Divide the data set SOURCE, and write it into the new folder DESTINATION.

    Each class gets the same share in every part, the rarest first. train gets the rest.

    Example: ssd34 data split mine.zip mine --val 0.2
    """
    shares = {"val": val} if test is None else {"val": val, "test": test}
    how = Shares(shares=shares, pattern=pattern, seed=seed)
    path, chosen = split_path(source)
    layout = find_dataset(path)
    dataset = layout.open(chosen)
    console.warn_of_problems(dataset)
    check_outputs((console.file_of(json_file),), data=[source], datasets=[dataset])
    options = Options(form or layout.format, link=not copy)
    check_destination(destination, options, [dataset])
    with console.progress_bar() as bar:
        alike = None
        if near:
            compared = console.count_on(bar, "comparing", len(dataset))
            alike = group_scenes(dataset, threads=thread_budget(), progress=compared)
        parts = divide(dataset, how, alike=alike)
        done = run_conversion(
            list(parts.items()), destination, options,
            progress=console.count_on(bar, "writing", len(dataset)),
        )  # fmt: skip
    warn_of_changes(done)
    classes = {
        name: {one.name: one.boxes for one in count_statistics(part).classes}
        for name, part in parts.items()
    }
    for name in parts:
        lacking = [one for one, count in classes[name].items() if not count]
        if lacking:
            console.warn(
                f"{name}: no box of {', '.join(lacking[:8])}{', ...' * (len(lacking) > 8)}"
            )
    if json_file != console.PRINTED:
        print_splits(done, destination)
        if alike is not None and (kept := len(alike) - len(set(alike))):
            click.echo(f"{counted(kept, 'picture')} went where one that looks alike is")
        click.echo(
            f"next: ssd34 train --data {shlex.quote(f'{destination}@train')} "
            f"--val {shlex.quote(f'{destination}@val')} --output runs/1 --recipe fine-tune"
        )
    values = {"destination": str(destination), **done.to_dict(), "boxes_of_class": classes}
    console.emit_json(values, json_file)
    if dataset.problems or done.problems:
        raise SystemExit(PARTLY)
