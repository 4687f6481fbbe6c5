"""``ssd34 train``."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssd34.cli.console import errors, warn
from ssd34.cli.train.preview import show_preview
from ssd34.cli.train.qat import rounding_network
from ssd34.cli.train.resume import check_resumable, resumed_run
from ssd34.cli.train.screen import Screen, StopOnSignal, ending
from ssd34.cli.train.setup import (
    Planned,
    TrainCommand,
    check_empty,
    device_named,
    new_run,
    plan_run,
    settings_given,
)
from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.core.spec import SPECS
from ssd34.errors import DivergenceError, require
from ssd34.files.atomic import remove_parts, write_text
from ssd34.files.lock import folder_locked
from ssd34.text import counted
from ssd34.workflows.train_page import PAGE, write_page
from ssd34.workflows.train_warnings import warnings_of

if TYPE_CHECKING:
    from ssd34.train.settings.recipe import Plan, Recipe

RECIPE_FILE = "recipe.json"


@click.command(cls=TrainCommand, short_help="Train a detector on your pictures.")
@click.option(
    "--data", "data", multiple=True, required=True, metavar="PATH[=WEIGHT]",
    help="Pictures to learn from; may be repeated. WEIGHT: how often an epoch shows each.",
)  # fmt: skip
@click.option("--val", required=True, metavar="PATH", help="Pictures to measure on.")
@click.option(
    "--recipe", "recipe_name", metavar="NAME",
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
    "--init",
    help="Start from a detector: default, a checkpoint or an exported ONNX file. With @backbone "
    "behind it, from its backbone alone. Or from an ImageNet backbone: torchvision's .pth, "
    "safetensors, or a name such as resnet34-b627a593, which is downloaded.",
)  # fmt: skip
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run.",
)  # fmt: skip
@click.option("--epochs", type=int, help="Length in epochs.")
@click.option("--minutes", type=float, help="Length by the clock instead.")
@click.option(
    "--batch", "batch_size", type=int, help="Pictures a step, over all parts and processes."
)  # fmt: skip
@click.option(
    "--lr", "learning_rate", type=float,
    help="Peak learning rate. [default: at batch 16, 3e-4 for adamw, 1.25e-3 for sgd]",
)  # fmt: skip
@click.option("--workers", type=int, help="Processes that prepare pictures.")
@click.option(
    "--threads", type=click.IntRange(1),
    help="Threads that compute. [default: what this process may use]",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
    help="What computes. auto: cuda where it is.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the run in --output.")
@click.option(
    "--preview", "shown", type=click.IntRange(1, 100), metavar="N",
    help="Do not train: show N varied pictures with their boxes and the default boxes that learn "
    "them, and count the objects that none overlaps by half.",
)  # fmt: skip
@click.option(
    "--qat", is_flag=True,
    help="Quantization-aware: train the detector in --init with the rounding of its int8 file.",
)  # fmt: skip
def train(
    data: tuple[str, ...],
    val: str,
    recipe_name: str | None,
    assignments: tuple[str, ...],
    output: Path,
    shown: int | None,
    qat: bool,
    resume: bool,
    threads: int | None,
    device: str,
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

    Example: ssd34 train --data mine.zip --val val.zip --output runs/mine
    """
    from ssd34.train.examples.cache import start_workers_server

    if flags["workers"] != 0 and not shown:
        with suppress(OSError):  # if it cannot be started, who needs it tells
            start_workers_server()  # it loads while this process does
    torch = require("torch", extra="train", why="training")
    require("hotcoco", extra="evaluate", why="evaluation during training")
    require("msgspec", extra="train", why="the settings of a training")
    from ssd34.cli.train.tensorboard import EventWriter
    from ssd34.machine import thread_budget
    from ssd34.train.distributed import joined
    from ssd34.train.loop import train as run_training
    from ssd34.train.progress import Listener
    from ssd34.train.run import HISTORY, LAST, read_history
    from ssd34.train.settings.recipe import RECIPES, read_recipe
    from ssd34.workflows.train_warnings import untrained_levels

    first = int(os.environ.get("RANK", "0")) == 0
    if first and not shown:
        click.get_current_context().with_resource(folder_locked(output))
    given = settings_given(flags, assignments)
    chosen = device_named(torch, device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, thread_budget() // here))
    planned: Planned | None = None
    if resume:
        others = {"--recipe": recipe_name, "--preview": shown, "--qat": qat}
        check_resumable(given, others=others, output=output)
        run = resumed_run(output, given, data=data, val=val, quiet=not first)
    else:
        if not shown:
            check_empty(output)
        recipe = read_recipe(recipe_name or next(iter(RECIPES)))
        planned = plan_run(
            given, recipe=recipe, data=data, val=val, device=chosen, qat=qat, quiet=not first
        )
        if shown:
            show_preview(planned, shown=shown, folder=output)
            return
        run = new_run(planned, qat=qat and first)  # the other processes get its weights and steps
    options, labels, spec = run.options, run.labels, run.network.spec
    if run.tensorboard:
        require("tensorboardX", extra="tensorboard", why="--set tensorboard=true")

    if first:
        for name in sorted(set(run.validation.labels.names) - set(labels.names)):
            warn(f"{val}: the class {name!r} is not trained and counts as missed")
        if untrained := untrained_levels(spec, options):
            warn(untrained)
        if planned:
            for text in warnings_of(options, run.sources, start=planned.start, spec=spec):
                warn(text)

    output.mkdir(parents=True, exist_ok=True)
    history = read_history(output / HISTORY, until=run.begun_at) if resume else []
    screen = Screen(shown=first, history=history)
    if run.tensorboard and first:
        screen.also = EventWriter(output, resumed_at=run.begun_at)
    trained_on = (
        f"Trained on {', '.join(data)}, measured on {val}; {chosen}, {options.precision}; "
        f"start: {run.origin}."
    )
    stopping = StopOnSignal()
    with joined(chosen) as ranks, stopping, screen:
        # Processes on different machines would not find quite the same steps.
        [steps] = ranks.everyone([run.steps])[:1]
        network, notes = run.network, run.notes
        if steps is not None:
            network = rounding_network(network, steps)
            notes = {**notes, NOTE_INT8_STEPS: steps}
        if first:
            remove_parts(output, (RECIPE_FILE, PAGE))
            if planned:
                _print_plan(planned.plan, recipe)
            pictures = sum(len(source.usable) for source in run.sources)
            errors.print(
                f"{spec.name}, {counted(len(labels), 'class')}, start: {run.origin}; "
                f"{counted(pictures, 'picture')} to "
                f"learn from, {len(run.validation)} to measure on; {chosen}, {options.precision}, "
                f"{counted(torch.get_num_threads(), 'thread')}"
                + (f", {ranks.count} processes" if ranks.count > 1 else ""),
                markup=False,
                soft_wrap=True,
            )
        try:
            outcome = run_training(
                network,
                labels,
                sources=run.sources,
                validation=run.validation,
                options=options,
                output=output,
                resume=resume,
                device=chosen,
                notes=notes,
                listener=Listener(
                    stepped=screen.stepped,
                    progress=screen.progress,
                    evaluating=screen.evaluating,
                    evaluated=screen.evaluated,
                    problem=screen.problem,
                    ready=lambda: _write_recipe(output, notes) if first else None,
                    stop=lambda: stopping.asked,
                ),
                ranks=ranks,
            )
        except DivergenceError as error:
            if first and (output / LAST).exists():
                facts = [f"Stopped: {error}.", trained_on]
                write_page(output, run.validation, facts, chosen)
            raise
    if screen.also:
        screen.also.close()
    if first:
        end = ending(outcome, target_map=options.target_map)
        click.echo(end)
        click.echo(f"weights: {outcome.best if outcome.best.exists() else outcome.last}")
        facts = [
            f"{end[0].upper()}{end[1:]}.",
            trained_on,
        ]
        click.echo(f"report: {write_page(output, run.validation, facts, chosen)}")
    if not outcome.finished:
        sys.exit(130)


def _write_recipe(folder: Path, notes: dict[str, Any]) -> None:
    """The settings of the run that begins or goes on now."""
    if "recipe" in notes:
        write_text(folder / RECIPE_FILE, json.dumps(notes["recipe"], indent=2) + "\n")


def _print_plan(plan: Plan, recipe: Recipe) -> None:
    """The recipe as it was settled, what was changed first."""
    from ssd34.train.settings.settings import written

    errors.print(f"recipe {plan.recipe}: {recipe.about}", markup=False, soft_wrap=True)
    changed = [f"{key}={written(plan.settings[key])}" for key in plan.changed]
    others = [
        f"{key}={written(value)}" for key, value in plan.settings.items() if key not in plan.changed
    ]
    if changed:
        errors.print(f"  changed: {' '.join(changed)}", markup=False, soft_wrap=True)
    errors.print(f"  {' '.join(others)}", markup=False, soft_wrap=True)
