"""``ssd34 data split``."""

from __future__ import annotations

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
from ssd34.cli.data.convert import print_splits, warn_of_changes
from ssd34.datasets.check import count_statistics
from ssd34.datasets.convert.convert import FORMATS, Options, convert
from ssd34.datasets.convert.divide import Shares, divide, group_scenes
from ssd34.datasets.open import find_dataset, split_path
from ssd34.machine import thread_budget
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs


@click.command(short_help="Divide a data set into train and val.")
@click.argument("source", type=PATH)
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--val", type=float, default=0.2, help="Share of the pictures to measure on.")
@click.option("--test", type=float, help="Share of a third part. [default: none]")
@click.option(
    "--to",
    "form",
    type=click.Choice(FORMATS),
    help="The format to write. [default: that of SOURCE]",
)
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
@click.option(
    "--copy/--link", "copy", default=True, help="Copy the pictures, or make hard links to them."
)
@json_option
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
    warn_of_problems(dataset)
    check_outputs((file_of(json_file),), data=[source], datasets=[dataset])
    with progress_bar() as bar:
        alike = None
        if near:
            task = bar.add_task("comparing", total=len(dataset))
            alike = group_scenes(
                dataset, threads=thread_budget(),
                progress=lambda n: bar.update(task, completed=n),
            )  # fmt: skip
        parts = divide(dataset, how, alike=alike)
        writing = bar.add_task("writing", total=len(dataset))
        done = convert(
            list(parts.items()), destination, Options(form or layout.format, link=not copy),
            progress=lambda n: bar.update(writing, completed=n),
        )  # fmt: skip
    warn_of_changes(done)
    classes = {
        name: {one.name: one.boxes for one in count_statistics(part).classes}
        for name, part in parts.items()
    }
    for name in parts:
        lacking = [one for one, count in classes[name].items() if not count]
        if lacking:
            warn(f"{name}: no box of {', '.join(lacking[:8])}{', ...' * (len(lacking) > 8)}")
    if json_file != PRINTED:
        print_splits(done, destination)
        if alike is not None and (kept := len(alike) - len(set(alike))):
            click.echo(f"{counted(kept, 'picture')} went where one that looks alike is")
        click.echo(
            f"next: ssd34 train --data {destination}@train --val {destination}@val "
            "--output runs/1 --recipe fine-tune"
        )
    values = {"destination": str(destination), **done.to_dict(), "boxes_of_class": classes}
    emit_json(values, json_file)
    if dataset.problems or done.problems:
        raise SystemExit(PARTLY)
