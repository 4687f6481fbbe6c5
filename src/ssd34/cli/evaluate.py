"""``ssd34 evaluate``."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssd34.cli.console import errors, progress_bar, warn, warn_of_problems
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.data.atomic import write_text
from ssd34.data.checksum import sha256_of
from ssd34.data.formats import open_dataset
from ssd34.errors import OptionError, require
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.data.dataset import Dataset
    from ssd34.evaluate.evaluator import Found
    from ssd34.evaluate.partial import Partial
    from ssd34.runtime.detector import Detector

PARTLY = 1


@click.command(short_help="Measure a model on annotated pictures.")
@click.argument("model", default="default")
@click.option("--data", required=True, metavar="PATH", help="Pictures and boxes, as for train.")
@click.option(
    "--policy", "policy_name", type=click.Choice(list(POLICIES)),
    help="How detections are picked, for files that end at raw outputs. [default: zoo]",
)  # fmt: skip
@click.option(
    "--class", "classes", multiple=True, metavar="NAME",
    help="Count only this class; may be repeated.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all numbers.")
@click.option(
    "--detections", type=click.Path(path_type=Path), help="Write the detections as COCO results."
)
@click.option(
    "--resume", is_flag=True,
    help="Go on with what an interrupted evaluation left beside the first output file.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="[default: what this process may use]")
def evaluate(
    *,
    model: str,
    data: str,
    policy_name: str | None,
    classes: tuple[str, ...],
    limit: int | None,
    json_file: Path | None,
    detections: Path | None,
    resume: bool,
    threads: int | None,
) -> None:
    """Measure MODEL on annotated pictures with COCO's box metrics.

    AP is the mean over IoU 0.50 to 0.95, at most 100 detections a picture.
    """
    require("hotcoco", extra="evaluate", why="evaluation")
    from ssd34.cli.scores import metrics_table
    from ssd34.data.fingerprint import fingerprint
    from ssd34.evaluate.coco_metrics import coco_metrics
    from ssd34.evaluate.partial import partial_file, partial_path
    from ssd34.evaluate.results import Results, write_results
    from ssd34.runtime.detector import Detector

    outputs = [target for target in (json_file, detections) if target]
    for target in outputs:
        if target.is_dir() or not target.absolute().parent.is_dir():
            raise OptionError(f"{target}: expected a file to write in a folder that exists")
    if resume and not outputs:
        raise OptionError("--resume: goes on beside an output file; give the same --json FILE")
    dataset = _dataset(data, classes, limit)
    detector = Detector.load(model, threads=threads, policy=named_policy(policy_name or "zoo"))
    if policy_name and not detector.session.raw:
        raise OptionError(
            f"--policy {policy_name}: {model} picks detections itself; leave the option out, or "
            "export the network with --tail none"
        )
    policy = detector.policy.name if detector.session.raw else "the file's own tail"
    identity = {
        "model_sha256": sha256_of(detector.session.path),
        "data_sha256": fingerprint(dataset),
        "policies": [dataclasses.asdict(detector.policy)] if detector.session.raw else [policy],
        "limit": limit,
        "ssd34": __version__,
    }
    with ExitStack() as stack:
        partial = None
        if outputs:
            path = partial_path(outputs[0])
            partial = stack.enter_context(partial_file(path, identity, dataset, resume=resume))
        every = _detect(detector, dataset, partial)
        results = Results.joined(found.results[0] for found in every if found.results)
        metrics = coco_metrics(dataset, results)
        metrics_table(metrics, title=f"{model} on {data}: {len(dataset)} pictures, {policy}")
        failed = sum(found.problem is not None for found in every)
        if json_file:
            named = ("model_sha256", "data_sha256", "limit", "ssd34")
            values = {
                "model": model,
                "data": data,
                "policy": policy,
                **{key: identity[key] for key in named},
                "unreadable": failed,
                "problems": len(dataset.problems),
                **metrics.to_dict(),
            }
            write_text(json_file, json.dumps(values, indent=1) + "\n")
        if detections:
            write_results(detections, results)
    if failed:
        warn(f"{failed} of {len(dataset)} pictures could not be read and count as empty")
    if failed or dataset.problems:
        raise SystemExit(PARTLY)


def _dataset(data: str, classes: tuple[str, ...], limit: int | None) -> Dataset:
    from ssd34.data.dataset import of_classes

    dataset = open_dataset(data)
    warn_of_problems(dataset)
    if classes:
        dataset = of_classes(dataset, classes)
    return dataclasses.replace(dataset, samples=dataset.samples[:limit])


def _detect(detector: Detector, dataset: Dataset, partial: Partial | None) -> list[Found]:
    """What the detector finds in every picture; those in the partial file are not looked at."""
    from ssd34.evaluate.evaluator import detect_all, stages_of

    every: list[Found] = list(partial.found) if partial else []
    for found in every:
        if found.problem:
            warn(str(found.problem))
    try:
        with progress_bar() as bar:
            task = bar.add_task("evaluating", total=len(dataset), completed=len(every))
            for found in detect_all(
                stages_of(detector),
                dataset,
                detector.labels,
                batch_size=detector.session.batch or 1,
                start=len(every),
            ):
                if partial:
                    partial.keep(found)
                every.append(found)
                if found.problem:
                    warn(str(found.problem))
                bar.update(task, completed=len(every))
    except KeyboardInterrupt:
        kept = (
            f"kept in {partial.path}; go on with --resume"
            if partial
            else "not kept, as no --json or --detections was given"
        )
        errors.print(
            f"{len(every)} of {len(dataset)} pictures done, {kept}", markup=False, soft_wrap=True
        )
        raise
    return every
