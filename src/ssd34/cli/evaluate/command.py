"""``ssd34 evaluate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ssd34.cli import PARTLY, console
from ssd34.cli.evaluate.print_scores import (
    EvaluateScreen,
    print_comparison,
    print_score,
    print_scores,
)
from ssd34.core.postprocess import POLICIES
from ssd34.core.preprocess import CARD, PREPROCESSINGS
from ssd34.errors import OptionError
from ssd34.evaluate.score import METRICS
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.workflows import evaluate as workflow
from ssd34.workflows.scoring import ScoringOptions, compare_detections, score_detections


class _Preprocessing(click.Choice[str]):
    """A choice that knows what stands in for ``both``, which was one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "both":
            raise OptionError(
                "--preprocess both: expected card or fast; evaluate with each and --detections "
                "FILE, then compare the two files with --compare A B"
            )
        return super().convert(value, param, ctx)


@click.command(short_help="Measure a model, or anybody's detections.")
@click.argument("model", type=console.MODEL, required=False)
@click.option(
    "--data", type=console.PATH, required=True, metavar="PATH",
    help="Pictures and boxes, as for train.",
)  # fmt: skip
@click.option(
    "--policy", type=click.Choice([*POLICIES, workflow.ALL]),
    help="NMS policy, instead of the file's own. all: every one, side by side. "
    "[default: the file's own, zoo where it has none]",
)  # fmt: skip
@click.option(
    "--class", "classes", multiple=True, metavar="NAME",
    help="Count only this class; may be repeated.",
)  # fmt: skip
@console.coco_names_option
@click.option(
    "--preprocess", "preprocessing", type=_Preprocessing(PREPROCESSINGS),
    help="card: as published, bit for bit. fast: less work on large pictures. [default: card]",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@console.json_option
@click.option(
    "--detections", type=console.FILE, metavar="FILE",
    help="With MODEL: write its detections as COCO results into a new FILE. Without MODEL: score "
    "the detections in FILE.",
)  # fmt: skip
@click.option(
    "--report", type=console.FILE, metavar="DIR",
    help="Write a page with curves, errors and pictures, and all plots with their numbers.",
)  # fmt: skip
@click.option(
    "--report-class", "report_classes", multiple=True, metavar="NAME",
    help="Class with its own curve in the report; may be repeated. [default: the commonest]",
)  # fmt: skip
@click.option(
    "--compare", type=console.FILE, nargs=2, metavar="A B", help="Compare two files of detections."
)
@click.option(
    "--metric", type=click.Choice(METRICS), default="coco",
    help="zoo-2021: with the defects of the published numbers, to compare with them only.",
)  # fmt: skip
@click.option(
    "--resamples", type=click.IntRange(0), default=1000, metavar="N",
    help="Random samples of pictures for the intervals. 0: no intervals.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of these samples.")
@click.option(
    "--resume", is_flag=True,
    help="Resume an interrupted evaluation from the partial file beside the first output.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="With MODEL: replace the FILE of --detections.")
@console.threads_option
@console.engine_option
def evaluate(
    *,
    model: str | None,
    data: str,
    compare: tuple[Path, Path] | None,
    policy: str | None,
    preprocessing: str | None,
    threads: int | None,
    engine: str | None,
    detections: Path | None,
    overwrite: bool,
    resume: bool,
    json_file: Path | None,
    **scoring: Any,
) -> None:
    """Measure MODEL on annotated pictures with COCO's box metrics.

    AP is the mean over IoU 0.50 to 0.95, with at most 100 detections of a class in a picture.
    Without MODEL, --detections FILE is scored, or --compare A B compared. Without all three, MODEL
    is default.

    Example: ssd34 evaluate mine.onnx --data val.zip --json ap.json
    """
    scored = detections if model is None and compare is None else None
    if compare:
        _refuse(
            {"MODEL": model, "--detections": detections}, "--compare takes two files of detections"
        )
    if compare or scored:
        of_a_model = {
            "--policy": policy, "--preprocess": preprocessing, "--threads": threads,
            "--engine": engine, "--resume": resume or None, "--overwrite": overwrite or None,
        }  # fmt: skip
        _refuse(of_a_model, "no model runs here")
    scoring["json_file"] = console.file_of(json_file)
    scoring["command"] = shlex.join(["ssd34", *sys.argv[1:]])
    with EvaluateScreen() as screen:
        if compare:
            compared = compare_detections(compare, data, ScoringOptions(**scoring), listener=screen)
        elif scored:
            measured = score_detections(scored, data, ScoringOptions(**scoring), listener=screen)
        else:
            options = workflow.EvaluateOptions(
                **scoring,
                policy=policy,
                preprocessing=preprocessing or CARD,
                threads=threads,
                engine=engine or DEFAULT_ENGINE,
                detections=detections,
                overwrite=overwrite,
                resume=resume,
            )
            measured = workflow.evaluate(model or "default", data, options, listener=screen)
    if json_file == console.PRINTED:
        console.emit_json((compared if compare else measured).values)
    elif compare:
        names = (str(compare[0]), str(compare[1]))
        print_comparison(compared.comparison, title=compared.title, names=names)
    elif policy == workflow.ALL:
        print_scores(measured.scores, title=measured.title)
    else:
        print_score(measured.score, title=measured.title)
    if compare:
        if compared.problems:
            raise SystemExit(PARTLY)
        return
    if measured.report:
        console.say(f"report: {measured.report}")
    if measured.unreadable or measured.problems:
        raise SystemExit(PARTLY)


def _refuse(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise OptionError(f"{name} {value}: {why}; leave it out")
