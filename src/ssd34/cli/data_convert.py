"""``ssd34 data convert``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from ssd34.cli.console import progress_bar, warn, warn_of_problems
from ssd34.cli.exit_codes import PARTLY
from ssd34.cli.outputs import check_outputs
from ssd34.core.counted import counted
from ssd34.data.atomic import write_text
from ssd34.data.classes import renamed, with_coco_names
from ssd34.data.convert import FORMATS, Options
from ssd34.data.convert import convert as run_conversion
from ssd34.data.dataset import Dataset
from ssd34.data.formats import find_dataset, split_path
from ssd34.errors import OptionError


@click.command(short_help="Write a data set in another format.")
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]SOURCE...")
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
    help="Crowd and difficult boxes where the format, YOLO, has no flags for them.",
)  # fmt: skip
@click.option("--coco-names", is_flag=True, help="COCO's names for VOC's classes.")
@click.option(
    "--rename", "renames", multiple=True, metavar="OLD=NEW",
    help="Another name for a class; may be repeated. Classes of the same name become one.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Write what was written, changed and left out.",
)  # fmt: skip
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

    SOURCE is a COCO, Pascal VOC or YOLO data set, PATH@SPLIT for one split of it. NAME= says what
    the split is called in the destination; several sources become the splits of one data set.
    """
    if json_file and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise OptionError(f"{json_file}: expected a file to write in a folder that exists")
    check_outputs((json_file,), data=[_named(source)[1] for source in sources])
    names = dict(_pair(text, "--rename", "OLD=NEW") for text in renames)
    opened = [pair for source in sources for pair in _opened(source, splits)]
    if not opened:
        raise OptionError(f"no source has the split {' or '.join(splits)}; see: ssd34 data info")
    check_outputs((json_file,), datasets=[dataset for _, dataset in opened])
    if coco_names:
        opened = [(name, with_coco_names(dataset)) for name, dataset in opened]
    if names:
        opened = [(name, renamed(dataset, names)) for name, dataset in opened]
    options = Options(form, link=not copy, ignored_as_objects=ignored == "as-objects")
    with progress_bar() as bar:
        task = bar.add_task("converting", total=sum(len(dataset) for _, dataset in opened))
        done = run_conversion(
            opened, destination, options, progress=lambda n: bar.update(task, completed=n)
        )
    for problem in done.problems:
        warn(f"left out {problem}")
    for loss, count in done.losses.items():
        warn(f"{count} x {loss}")
    before = [problem for _, dataset in opened for problem in dataset.problems]
    for name, pictures, boxes in done.splits:
        click.echo(f"{name or 'all'}: {counted(pictures, 'picture')}, {counted(boxes, 'box')}")
    click.echo(f"written: {destination} ({done.format})")
    if json_file:
        values = {"destination": str(destination), **done.to_dict()}
        values["left_out"] = [str(problem) for problem in before] + values["left_out"]
        write_text(json_file, json.dumps(values, indent=1) + "\n")
    if before or done.problems:
        raise SystemExit(PARTLY)


def _opened(source: str, splits: tuple[str, ...]) -> list[tuple[str, Dataset]]:
    """The wanted splits of a source, each with its name in the destination."""
    given, path = _named(source)
    path, chosen = split_path(path)
    layout = find_dataset(path)
    if chosen is None:
        wanted = [name for name in layout.splits if not splits or name in splits]
    else:
        wanted = [chosen]
    if given and len(wanted) > 1:
        raise OptionError(
            f"{source}: holds the splits {', '.join(wanted)}; name one: {source}@{wanted[0]}"
        )
    opened = [(given or name, layout.open(name)) for name in wanted]
    for _, dataset in opened:
        warn_of_problems(dataset)
    return opened


def _named(source: str) -> tuple[str, str]:
    """NAME=PATH; a path that itself holds '=' is fine."""
    name, separator, path = source.partition("=")
    if not separator or Path(source).exists() or not re.fullmatch(r"\w[\w.-]*", name):
        return "", source
    return name, path


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not separator or not old or not new:
        raise OptionError(f"{option} {text}: expected {form}")
    return old, new
