"""``ssd34 evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd34.cli.console import progress_bar, warn, warn_of_problems
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.data.atomic import write_text
from ssd34.data.checksum import sha256_of
from ssd34.data.coco import open_dataset
from ssd34.errors import OptionError, require
from ssd34.version import __version__

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
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all numbers.")
@click.option(
    "--detections", type=click.Path(path_type=Path), help="Write the detections as COCO results."
)
@click.option("--threads", type=click.IntRange(1))
def evaluate(
    *,
    model: str,
    data: str,
    policy_name: str | None,
    classes: tuple[str, ...],
    json_file: Path | None,
    detections: Path | None,
    threads: int | None,
) -> None:
    """Measure MODEL on annotated pictures with COCO's box metrics.

    AP is the mean over IoU 0.50 to 0.95, at most 100 detections a picture.
    """
    require("hotcoco", extra="evaluate", why="evaluation")
    from ssd34.data.dataset import of_classes
    from ssd34.evaluate.evaluator import evaluate_detector
    from ssd34.runtime.detector import Detector

    for target in (json_file, detections):
        if target and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise OptionError(f"{target}: expected a file to write in a folder that exists")
    dataset = open_dataset(data)
    warn_of_problems(dataset)
    if classes:
        dataset = of_classes(dataset, classes)
    detector = Detector.load(model, threads=threads, policy=named_policy(policy_name or "zoo"))
    if policy_name and not detector.session.raw:
        raise OptionError(
            f"--policy {policy_name}: {model} picks detections itself; leave the option out, or "
            "export the network with --tail none"
        )
    failed = 0

    def report(problem: object) -> None:
        nonlocal failed
        failed += 1
        warn(str(problem))

    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(dataset))
        metrics, results = evaluate_detector(
            detector,
            dataset,
            progress=lambda n: bar.update(task, completed=n),
            problem=report,
        )
    policy = detector.policy.name if detector.session.raw else "the file's own tail"
    table = Table(
        "metric",
        "value",
        title=Text(f"{model} on {data}: {len(dataset)} pictures, {policy}", style="table.title"),
    )
    for name, value in metrics.summary.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}")
    Console(highlight=False).print(table)
    if json_file:
        report_values = {
            "model": model,
            "model_sha256": sha256_of(detector.session.path),
            "data": data,
            "policy": policy,
            "ssd34": __version__,
            "unreadable": failed,
            "problems": len(dataset.problems),
            **metrics.to_dict(),
        }
        write_text(json_file, json.dumps(report_values, indent=1) + "\n")
    if detections:
        write_text(detections, json.dumps(results) + "\n")
    if failed:
        warn(f"{failed} of {len(dataset)} pictures could not be read and count as empty")
    if failed or dataset.problems:
        raise SystemExit(PARTLY)
