"""``ssd34 train``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssd34.cli.console import errors, warn
from ssd34.cli.datasets import opened
from ssd34.cli.train_end import ending
from ssd34.cli.train_norms import fitted_norms
from ssd34.cli.train_page import PAGE, write_page
from ssd34.cli.train_preview import show_preview
from ssd34.cli.train_qat import (
    calibrated_steps,
    check_options,
    check_resumed,
    rounding_network,
    settings_of_qat,
    steps_of,
)
from ssd34.cli.train_resume import (
    check_classes,
    check_empty,
    options_to_go_on,
    recipe_to_go_on,
)
from ssd34.cli.train_screen import Screen, StopOnSignal
from ssd34.cli.train_setup import (
    classes,
    device_named,
    network_spec,
    settings_given,
    start_from,
    weighted,
)
from ssd34.cli.train_warnings import warnings_of
from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.core.counted import counted
from ssd34.core.spec import SPECS
from ssd34.data.atomic import remove_parts, write_text
from ssd34.data.lock import folder_locked
from ssd34.errors import DivergenceError, TrainingError, require
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.train.recipe import Plan, Recipe

RECIPE_FILE = "recipe.json"


@click.command(short_help="Train a detector on your pictures.")
@click.option(
    "--data", "data", multiple=True, required=True, metavar="PATH[=WEIGHT]",
    help="Pictures to learn from; may be given again. WEIGHT: draws per picture and epoch.",
)  # fmt: skip
@click.option("--val", required=True, metavar="PATH", help="Pictures to measure on.")
@click.option(
    "--recipe", "recipe_name", metavar="NAME",
    help="Settings that are not given: small-data, fine-tune, benchmark, benchmark-256, or the "
    "recipe.json of a run. [default: small-data]",
)  # fmt: skip
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE",
    help="Any setting of a recipe; may be given again.",
)  # fmt: skip
@click.option(
    "--spec", type=click.Choice(list(SPECS)),
    help="The network. [default: that of the detector in --init, else ssd300-resnet34]",
)  # fmt: skip
@click.option(
    "--init",
    help="Start from a detector: default, a checkpoint or an exported ONNX file; with @trunk "
    "behind it from its trunk alone; or from an ImageNet trunk: torchvision's .pth, safetensors, "
    "or a name such as resnet34-b627a593, which is downloaded.",
)  # fmt: skip
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--epochs", type=int, help="Length in epochs.")
@click.option("--minutes", type=float, help="Length by the clock, instead.")
@click.option("--target-map", type=float, help="Stop where an evaluation reaches this AP.")
@click.option(
    "--preview", "shown", type=click.IntRange(1, 100), metavar="N",
    help="Do not train: draw N varied pictures with their boxes and the default boxes that learn "
    "them, and count the objects that none overlaps by half.",
)  # fmt: skip
@click.option(
    "--qat", is_flag=True,
    help="Quantization-aware: train the detector in --init with the rounding of its int8 file.",
)  # fmt: skip
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard's events.")
@click.option("--resume", is_flag=True, help="Go on where the run in --output stopped.")
@click.option(
    "--batch", "--global-batch", "batch_size", type=int,
    help="Pictures a step, over all parts and processes.",
)  # fmt: skip
@click.option("--accumulate", type=int, help="Parts of a batch, computed one after the other.")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), help="sgd is the published one."
)  # fmt: skip
@click.option(
    "--lr", "learning_rate", type=float,
    help="Peak learning rate. [default: at batch 16, 3e-4 for adamw, 1.25e-3 for sgd]",
)  # fmt: skip
@click.option("--weight-decay", type=float, help="[default: 0.05 for adamw, 5e-4 for sgd]")
@click.option("--warmup", "warmup_steps", type=int, help="Steps of warm-up.")
@click.option("--schedule", type=click.Choice(["cosine", "step"]))
@click.option("--ema", "ema_decay", type=float, help="Decay of averaged weights.")
@click.option("--clip", "gradient_clip", type=float, help="Largest gradient norm.")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "fp32"]),
    help="auto: bf16 where the processor computes in it.",
)  # fmt: skip
@click.option("--head-norm/--no-head-norm", default=None, help="Batch norm in the extra blocks.")
@click.option(
    "--trunk-statistics", type=click.Choice(["auto", "frozen", "batch"]),
    help="Batch norm statistics of the trunk: as they came, or the batch's own. auto: as they "
    "came, if they came with --init.",
)  # fmt: skip
@click.option(
    "--freeze", "frozen_stages", type=int,
    help="First stages of the trunk that do not train: 1 is the stem, 2 with layer1, ...",
)  # fmt: skip
@click.option("--freeze-share", "frozen_share", type=float,
              help="Share of the run in which they do not.")  # fmt: skip
@click.option("--small-size", type=int, help="Train the first part at this input size.")
@click.option("--small-share", type=float, help="How long that part is. [default: 0.6]")
@click.option("--expand", type=float, help="Share of pictures zoomed out.")
@click.option(
    "--labels", type=click.Choice(["auto", "coco", "data"]),
    help="Classes of the head: COCO's 80, or those of the data. auto: COCO's if the data has them "
    "all.",
)  # fmt: skip
@click.option("--coco-names", is_flag=True, help="COCO's names for VOC's classes.")
@click.option("--workers", type=int, help="Processes that prepare pictures.")
@click.option(
    "--threads", type=click.IntRange(1), help="Threads that compute. [default: what there is]"
)  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--seed", type=int)
def train(
    data: tuple[str, ...],
    val: str,
    coco_names: bool,
    recipe_name: str | None,
    assignments: tuple[str, ...],
    output: Path,
    shown: int | None,
    qat: bool,
    tensorboard: bool,
    resume: bool,
    threads: int | None,
    device: str,
    **flags: Any,
) -> None:
    """Train a detector on your pictures and measure it after every epoch.

    PATH is a COCO, Pascal VOC or YOLO data set, a folder or zip; PATH@SPLIT where it is divided,
    FILE.json@FOLDER where the pictures of a COCO file lie elsewhere. In pictures of a data set
    that labels only some classes the others are left out of the loss.

    Writes last.safetensors, best.safetensors, history.jsonl, recipe.json and, at the end,
    report.html into --output.
    Ctrl-C saves and stops; --resume goes on with the settings of the run, except those given
    again. Several processes train together when torchrun starts them.
    """
    torch = require("torch", extra="train", why="training")
    require("hotcoco", extra="evaluate", why="evaluation during training")
    if tensorboard:
        require("tensorboardX", extra="tensorboard", why="--tensorboard")
    from ssd34.network.ssd import SSD
    from ssd34.threads import thread_budget
    from ssd34.train.distributed import joined
    from ssd34.train.history import other_policy, read_history
    from ssd34.train.loop import train as run_training
    from ssd34.train.pictures import other_validation, pictures_of
    from ssd34.train.precision import computes_bf16
    from ssd34.train.progress import Listener
    from ssd34.train.recipe import RECIPES, read_recipe, resolved
    from ssd34.train.run import HISTORY, LAST, run_to_go_on
    from ssd34.train.tensorboard import EventWriter
    from ssd34.train.training_set import training_sets
    from ssd34.train.untrained import untrained_levels

    last = output / LAST
    first = int(os.environ.get("RANK", "0")) == 0
    if first and not shown:
        click.get_current_context().with_resource(folder_locked(output))
    if resume and not last.is_file():
        raise TrainingError(f"nothing to resume: {last} does not exist; leave --resume out")
    if not resume and not shown:
        check_empty(output)
    given = settings_given(flags, assignments)
    recipe = read_recipe(recipe_name or next(iter(RECIPES)))
    begun = run_to_go_on(last) if resume else None
    chosen = device_named(torch, device)
    start = start_from(None if begun else given.get("init", recipe.settings.get("init")))
    if begun:
        options = options_to_go_on(begun, given, recipe if recipe_name else None)
        check_resumed(begun.state["notes"], options, qat=qat)
    else:
        plan = resolved(
            recipe,
            settings_of_qat(given, start) if qat else given,
            start=start.kind,
            bf16=computes_bf16(chosen),
        )
        options = plan.options
        if qat:
            check_options(options)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, thread_budget() // here))
    torch.manual_seed(options.seed)

    open_one = partial(opened, coco_names=coco_names, quiet=not first)
    datasets = [(open_one(path), weight) for path, weight in map(weighted, data)]
    validation = open_one(val)
    notes: dict[str, Any] = {}
    if begun:
        check_classes(begun, given, [dataset for dataset, _ in datasets])
        spec, labels = begun.spec, begun.labels
    else:
        labels = classes(plan.settings["labels"], [dataset for dataset, _ in datasets])
        spec, plan = network_spec(plan, start, labels)
    sources = training_sets(datasets, labels, balance=options.balance)
    if shown:
        show_preview(sources, spec, labels, options, shown=shown, folder=output)
        return
    network, origin = SSD(spec), "resumed"
    if begun:
        if note := recipe_to_go_on(begun, given, options):
            notes = {"recipe": note}
    else:
        origin = start.put_into(network, labels, class_loss=options.class_loss)
        if first:  # the other processes get its weights
            origin += fitted_norms(network, sources, options=options, start=start)
        notes = {
            "command": shlex.join(sys.argv[1:]), "start": origin, "recipe": plan.to_dict(),
            "version": __version__,
        }  # fmt: skip
    steps = steps_of(begun.state["notes"]) if begun else None
    if qat and first and not begun:
        steps = calibrated_steps(network, labels, sources)
    for name in sorted(set(validation.labels.names) - set(labels.names)):
        if first:
            warn(f"{val}: the class {name!r} is not trained and counts as missed")
    now = pictures_of(sources, validation)
    other = other_validation(begun.state.get("pictures", now), now) if begun else None
    if other and first:
        warn(f"the run began with {other}; its best AP so far is of the former")
    was = other_policy(begun.state["options"], options.policy) if begun else None
    if was and first:
        warn(f"evaluations now pick by {options.policy}, before by {was}: the best AP so far does "
             "not count any more")  # fmt: skip
    untrained = untrained_levels(spec, options)
    if untrained and first:
        warn(untrained)

    if first and not begun:
        for text in warnings_of(options, sources, start=start, spec=spec):
            warn(text)

    output.mkdir(parents=True, exist_ok=True)
    history = read_history(output / HISTORY, until=begun.state["step"]) if begun else []
    screen = Screen(policy=options.policy, shown=first, history=history)
    if tensorboard and first:
        screen.also = EventWriter(output, resumed_at=begun.state["step"] if begun else None)
    trained_on = (
        f"Trained on {', '.join(data)}, measured on {val}; {chosen}, {options.precision}; "
        f"start: {origin}."
    )
    stopping = StopOnSignal()
    with joined(chosen) as ranks, stopping, screen:
        # Processes on different machines would not find quite the same steps.
        [steps] = ranks.everyone([steps])[:1]
        if steps is not None:
            network = rounding_network(network, steps)
            notes[NOTE_INT8_STEPS] = steps
        if first:
            remove_parts(output, (RECIPE_FILE, PAGE))
            if not begun:
                _print_plan(plan, recipe)
            pictures = sum(len(source.usable) for source in sources)
            errors.print(
                f"{spec.name}, {counted(len(labels), 'class')}, start: {origin}; "
                f"{counted(pictures, 'picture')} to "
                f"learn from, {len(validation)} to measure on; {chosen}, {options.precision}, "
                f"{counted(torch.get_num_threads(), 'thread')}"
                + (f", {ranks.count} processes" if ranks.count > 1 else ""),
                markup=False,
                soft_wrap=True,
            )
        try:
            outcome = run_training(
                network,
                labels,
                sources=sources,
                validation=validation,
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
            if first and last.exists():
                facts = [f"Stopped: {error}.", trained_on]
                write_page(output, validation, facts, chosen)
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
        click.echo(f"report: {write_page(output, validation, facts, chosen)}")
    if not outcome.finished:
        sys.exit(130)


def _write_recipe(folder: Path, notes: dict[str, Any]) -> None:
    """The settings of the run that begins or goes on now."""
    if "recipe" in notes:
        write_text(folder / RECIPE_FILE, json.dumps(notes["recipe"], indent=2) + "\n")


def _print_plan(plan: Plan, recipe: Recipe) -> None:
    """The recipe as it was settled, what was changed first."""
    from ssd34.train.settings import written

    errors.print(f"recipe {plan.recipe}: {recipe.about}", markup=False, soft_wrap=True)
    changed = [f"{key}={written(plan.settings[key])}" for key in plan.changed]
    others = [
        f"{key}={written(value)}" for key, value in plan.settings.items() if key not in plan.changed
    ]
    if changed:
        errors.print(f"  changed: {' '.join(changed)}", markup=False, soft_wrap=True)
    errors.print(f"  {' '.join(others)}", markup=False, soft_wrap=True)
