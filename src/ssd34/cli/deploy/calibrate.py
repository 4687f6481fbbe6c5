"""``ssd34 calibrate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.table import Table

from ssd34.cli import PARTLY, console
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.datasets.dataset import Dataset, Problem, fingerprint
from ssd34.datasets.open import choose_part, open_dataset
from ssd34.errors import OptionError, require
from ssd34.files.checkpoint import BEST, LAST, Checkpoint, is_named_checkpoint, read_checkpoint
from ssd34.files.lock import file_locked, folder_locked
from ssd34.text import counted
from ssd34.version import __version__
from ssd34.workflows.outputs import check_kinds, check_outputs
from ssd34.zoo.names import find_float_file

if TYPE_CHECKING:
    from ssd34.workflows.calibrate import CalibratedScores


@click.command(short_help="Make a checkpoint's scores mean what they say.")
@click.argument("model", type=console.MODEL, metavar="CHECKPOINT")
@click.option(
    "--data", type=console.PATH, required=True, metavar="PATH",
    help="Pictures and boxes, as for train, that the network was not trained on.",
)  # fmt: skip
@click.option(
    "--test", "test_data", type=console.PATH, metavar="PATH",
    help="Other pictures to measure on. All of --data is then fitted. [default: half of --data]",
)  # fmt: skip
@console.coco_names_option
@click.option(
    "--limit", type=click.IntRange(2), metavar="N", help="Only N random pictures of --data."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, help="Seed of the halves and of --limit."
)
@click.option(
    "--output", type=console.NEW_FILE, metavar="FILE.safetensors",
    help="Where the calibrated checkpoint goes. [default: CHECKPOINT itself, whose weights stay]",
)  # fmt: skip
@click.option(
    "--policy", "policy_name", type=click.Choice(list(POLICIES)), default="zoo",
    help="NMS policy to measure with.",
)  # fmt: skip
@console.json_option
@console.threads_option
def calibrate(
    *,
    model: str,
    data: str,
    test_data: str | None,
    coco_names: bool,
    limit: int | None,
    seed: int,
    output: Path | None,
    policy_name: str,
    json_file: Path | None,
    threads: int | None,
) -> None:
    """Make scores mean what they say: of the detections that score 0.7, seven in ten are right.

    It fits an offset on the background's logit to one half of the pictures and measures on the
    other. CHECKPOINT is a checkpoint, or a float ONNX file that ssd34 export has written. Its
    weights stay: export and quantize add the offset to what they write, and training ignores it.

    Example: ssd34 calibrate runs/mine/best.safetensors --data val.zip
    """
    require("onnx", extra="export", why="calibration of scores")
    require("hotcoco", extra="evaluate", why="calibration of scores")
    from ssd34.evaluate.metrics import describe_unknown_classes
    from ssd34.workflows.calibrate import calibrate_scores, choose_samples, split_in_halves

    inputs = [data] if test_data is None else [data, test_data]
    check_kinds(models=(model,), data=inputs)
    source = find_float_file(model)
    target = output or source
    if not is_named_checkpoint(target):
        raise OptionError(
            f"{target}: expected a name that ends in .safetensors for the calibrated checkpoint; "
            "give --output FILE.safetensors"
        )
    check_outputs((output, console.file_of(json_file)), data=inputs)
    check_outputs((console.file_of(json_file),), models=(str(source),))
    # A training that runs in the folder may write its checkpoints meanwhile.
    file = Path(os.path.realpath(target))
    written = folder_locked(file.parent) if file.name in (BEST, LAST) else file_locked(file)
    click.get_current_context().with_resource(written)
    checkpoint = _read(source)
    everything = _opened(data, coco_names=coco_names)
    if limit and limit < len(everything):
        some = np.random.default_rng(seed).permutation(len(everything))[:limit]
        everything = choose_samples(everything, some)
    if test_data is None:
        fit, held_out = split_in_halves(everything, seed=seed)
        split = f"one half of {data} by chance (seed {seed}) fitted, the other measured"
    else:
        fit, held_out = everything, _opened(test_data, coco_names=coco_names)
        split = f"{data} fitted, {test_data} measured"
    check_outputs((target, console.file_of(json_file)), datasets=(fit, held_out))
    if unknown := describe_unknown_classes(checkpoint.labels, fit):
        console.warn(unknown)

    problems: list[Problem] = []
    with console.progress_bar() as bar:
        found = calibrate_scores(
            checkpoint, fit, held_out, policy=named_policy(policy_name), threads=threads,
            progress=console.count_on(bar, "calibrating", len(fit) + len(held_out)),
            problem=problems.append,
        )  # fmt: skip
    found.checkpoint.save(target)
    if json_file != console.PRINTED:
        _show(found, fit, held_out)
        click.echo(f"{target}: background offset {found.calibration.background_offset:+.3f}")
    values = {
        "model": model, "checkpoint": str(target), "data": data, "test_data": test_data,
        "limit": limit, "seed": seed, "split": split, "policy": policy_name,
        "fit_pictures": len(fit), "fit_sha256": fingerprint(fit),
        "held_out_pictures": len(held_out), "held_out_sha256": fingerprint(held_out),
        "unreadable": len(problems), "ssd34": __version__, **found.to_dict(),
    }  # fmt: skip
    console.emit_json(values, json_file)
    for problem in problems[:5]:
        console.warn(f"left out {problem}")
    if problems:
        console.warn(f"{counted(len(problems), 'picture')} could not be read and were left out")
        raise SystemExit(PARTLY)


def _opened(path: str, *, coco_names: bool) -> Dataset:
    dataset = choose_part(open_dataset(path), coco_names=coco_names)
    console.warn_of_problems(dataset)
    return dataset


def _read(path: Path) -> Checkpoint:
    """A checkpoint with all that is in it, or the one in an exported file."""
    from ssd34.workflows.training.runs import read_onnx_checkpoint

    if is_named_checkpoint(path):
        return read_checkpoint(path, training=True)
    return read_onnx_checkpoint(path)


def _show(found: CalibratedScores, fit: Dataset, held_out: Dataset) -> None:
    both = (found.before, found.after)
    table = Table("", "before", "after")
    for name in ("AP", "AP50", "AR100"):
        values = (each.score.metrics.summary[name] for each in both)
        table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    table.add_section()
    for ones in zip(*(each.score.precisions for each in both), strict=True):
        cells = (_share(one.precision, one.detections) for one in ones)
        table.add_row(f"right from score {ones[0].score:g}", *cells)
    table.add_section()
    bins = [{round(one.low, 1): one for one in each.curve.bins} for each in both]
    for low in sorted(bins[0].keys() | bins[1].keys()):
        cells = (_share(one[low].right, one[low].count) if low in one else "-" for one in bins)
        table.add_row(f"right at score {low:g} to {low + 0.1:.1f}", *cells)
    table.add_row("calibration error", *(f"{each.curve.ece:.4f}" for each in both))
    title = (
        f"fitted on {counted(len(fit), 'picture')} of {fit.name}; measured on "
        f"{counted(len(held_out), 'other')} of {held_out.name}"
    )
    console.print_titled(title, table)


def _share(right: float | None, count: int) -> str:
    return "-" if right is None else f"{right:.3f} of {count}"
