"""``ssd34 train``."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ssd34.cli import INTERRUPTED, console
from ssd34.cli.train_screen import TrainScreen
from ssd34.core.spec import SPECS
from ssd34.errors import OptionError
from ssd34.text import counted
from ssd34.workflows import train as workflow
from ssd34.workflows.training.job import DEVICES, TrainJob

if TYPE_CHECKING:
    from ssd34.train.examples.preview import Preview


def _now(option: str) -> str | None:
    """The setting that took the option's place."""
    from ssd34.train.options import FORMER_OPTIONS, SETTINGS

    name = option.removeprefix("--").replace("-", "_")
    key = FORMER_OPTIONS.get(name, name)
    value = "false" if name.startswith("no_") else "VALUE"
    return f"use --set {key}={value}" if key in SETTINGS else None


def _recipes() -> list[str]:
    from ssd34.train.recipe import RECIPES

    return [*RECIPES]


@click.command(cls=console.renamed(_now), short_help="Train a detector on your pictures.")
@click.option(
    "--data", type=console.PATH, multiple=True, required=True, metavar="PATH[=WEIGHT]",
    help="Pictures to learn from; may be repeated. WEIGHT: how often an epoch shows each.",
)  # fmt: skip
@click.option(
    "--val", type=console.PATH, metavar="PATH", help="Pictures to measure on.  [required]"
)
@click.option(
    "--recipe", type=console.CompletedText(_recipes), metavar="NAME",
    help="Values of all other settings: small-data, fine-tune, benchmark, benchmark-256, or the "
    "recipe.json of a run. [default: small-data]",
)  # fmt: skip
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE",
    help="Any setting of a recipe, such as frozen_stages=2; may be repeated.",
)  # fmt: skip
@click.option(
    "--spec", type=click.Choice(list(SPECS)),
    help="The network. [default: that of the detector in --init, else ssd300-resnet34]",
)  # fmt: skip
@click.option(
    "--init", type=console.MODEL,
    help="Start from a detector: default, a checkpoint or an exported ONNX file. With @backbone "
    "behind it, from its backbone alone. Or from an ImageNet backbone: torchvision's .pth, "
    "safetensors, or a name such as resnet34-b627a593, which is downloaded.",
)  # fmt: skip
@click.option("--output", required=True, type=console.FOLDER, help="Folder of the run.")
@click.option("--epochs", type=int, help="Length in epochs.")
@click.option("--minutes", type=float, help="Length by the clock instead.")
@click.option(
    "--batch", "batch_size", type=int, help="Pictures a step, over all parts and processes."
)
@click.option(
    "--lr", "learning_rate", type=float,
    help="Peak learning rate. [default: at batch 16, 3e-4 for adamw, 1.25e-3 for sgd]",
)  # fmt: skip
@click.option("--workers", type=int, help="Processes that prepare pictures.")
@click.option(
    "--threads", type=console.THREADS,
    help="Threads that compute. [default: what this process may use]",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(DEVICES), default="auto",
    help="What computes. auto: cuda where it is.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the run in --output.")
@click.option(
    "--preview", "shown", type=click.IntRange(1, 100), metavar="N",
    help="Do not train: show N varied pictures with their boxes and the default boxes that learn "
    "them, and count the objects that hardly any learns.",
)  # fmt: skip
@click.option(
    "--qat", is_flag=True,
    help="Quantization-aware: train the detector in --init with the rounding of its int8 file.",
)  # fmt: skip
@console.json_flag
def train(
    data: tuple[str, ...],
    val: str | None,
    recipe: str | None,
    assignments: tuple[str, ...],
    output: Path,
    shown: int | None,
    qat: bool,
    resume: bool,
    threads: int | None,
    device: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a detector on your pictures and measure it after every epoch.

    PATH is a COCO, Pascal VOC or YOLO data set, a folder or zip. PATH@SPLIT names a split,
    FILE.json@FOLDER the pictures of a COCO file. If a data set labels only some classes, the others
    are left out of the loss in its pictures.

    The run writes last.safetensors, best.safetensors, history.jsonl, recipe.json and, at the end,
    report.html into --output. Ctrl-C saves and stops. --resume continues with the settings of the
    run; only the length, --workers, --device, --threads and --set cache_mb may change. Several
    processes train together when torchrun starts them.

    Example: ssd34 train --data mine.zip --val val.zip --output runs/mine --recipe fine-tune
    """
    if val is None:
        raise OptionError(
            "expected --val PATH, pictures to measure on that are not trained on; to divide one "
            f"data set: ssd34 data split {data[0].partition('=')[0]} NEW_FOLDER"
        )
    workflow.check_libraries()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Before training torch waits for the others where no handler is called.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    job = TrainJob(
        data=data, val=val, output=output, recipe=recipe, settings=_settings_of(flags, assignments),
        qat=qat, resume=resume, device=device, threads=threads, command=shlex.join(sys.argv[1:]),
    )  # fmt: skip
    with TrainScreen() as screen:
        if shown:
            seen = workflow.preview(job, shown=shown, listener=screen)
            if as_json:
                console.emit_json(seen.to_dict())
            else:
                print_preview(seen, output, shown=shown)
            return
        trained = workflow.train(job, listener=screen)
    if as_json and trained.report:
        console.emit_json({
            "finished": trained.finished, "steps": trained.steps,
            "best_ap": trained.best_ap if trained.best_ap >= 0 else None,
            "weights": str(trained.weights), "last": str(trained.last),
            "report": str(trained.report), "summary": trained.summary,
        })  # fmt: skip
    elif trained.report:
        click.echo(trained.summary)
        click.echo(f"weights: {trained.weights}")
        click.echo(f"report: {trained.report}")
    if not trained.finished:
        sys.exit(INTERRUPTED)


def _settings_of(flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that were given, by their own options and by ``--set``. OptionError: one was
    given twice, or one of ``--set`` is none."""
    from ssd34.train.options import parse_setting

    given = {name: value for name, value in flags.items() if value is not None}
    for text in assignments:
        key, value = parse_setting(text)
        if key in given:
            raise OptionError(f"expected {key} once, got it again as --set {text}")
        given[key] = value
    return given


def print_preview(seen: Preview, folder: Path, *, shown: int) -> None:
    """The counts of the objects, and where all is."""
    smallest, largest = seen.sides
    sizes = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    table = Table(
        title=f"objects in {counted(seen.pictures, 'varied picture')} of {sizes} pixels",
        title_justify="left",
    )
    for name in ("side in pixels", "objects", seen.forced, "default boxes each"):
        table.add_column(name, justify="right")
    for row in seen.rows:
        share = row.forced / row.objects if row.objects else 0.0
        side = (
            f"{row.side_from:g} or more"
            if math.isinf(row.side_to)
            else f"{row.side_from:g} to {row.side_to:g}"
        )
        table.add_row(
            side, str(row.objects), f"{row.forced} ({share:.0%})", f"{row.default_boxes:.1f}"
        )
    Console(emoji=False).print(table)
    click.echo(
        f"{folder / workflow.SHEET}: {counted(min(shown, seen.pictures), 'picture')}; "
        f"{folder / workflow.NUMBERS}"
    )
