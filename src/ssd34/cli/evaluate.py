"""``ssd34 evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import click
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from ssd34.cli import PARTLY, console
from ssd34.core.postprocess import POLICIES
from ssd34.core.preprocess import CARD, PREPROCESSINGS
from ssd34.datasets.dataset import Dataset
from ssd34.errors import OptionError
from ssd34.evaluate.bootstrap import FEWEST_PICTURES, Interval
from ssd34.evaluate.score import METRICS, Difference, Differences, Score
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.workflows import evaluate as workflow
from ssd34.workflows.scoring import (
    EvaluateListener,
    ScoringOptions,
    compare_detections,
    score_detections,
)


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
                **scoring, policy=policy, preprocessing=preprocessing or CARD, threads=threads,
                engine=engine or DEFAULT_ENGINE, detections=detections, overwrite=overwrite,
                resume=resume,
            )  # fmt: skip
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


SHOWN_CLASSES = 8
FEW = f"no interval where objects lie in fewer than {FEWEST_PICTURES} pictures"


class EvaluateScreen(EvaluateListener):
    """Bars and warnings on stderr. Use it as a context manager."""

    def __init__(self) -> None:
        self._bar = console.progress_bar()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def dataset_opened(self, dataset: Dataset) -> None:
        """What had to be left out."""
        console.warn_of_problems(dataset)

    def engine_chosen(self, reason: str) -> None:
        """What ``--engine auto`` took."""
        console.say(reason)

    def warned(self, message: str) -> None:
        """One line."""
        console.warn(message)

    def progressed(self, step: str, done: int, total: int) -> None:
        """A bar for each step, until it is done."""
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._tasks[step], completed=done)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(step))

    def interrupted(self, done: int, total: int, kept: Path | None) -> None:
        """How to continue."""
        where = (
            f"kept in {kept}; continue with --resume"
            if kept
            else "not kept, as no --json, --detections or --report names a file"
        )
        console.say(f"{done} of {total} pictures done, {where}")


def print_score(score: Score, *, title: str) -> None:
    """The twelve numbers, with intervals where there are any."""
    sure = score.uncertainty
    table = Table("metric", "value")
    if sure:
        table.add_column(f"{sure.confidence:.0%} interval")
    for name, value in score.metrics.summary.items():
        cells = [name, _number(value)]
        if sure:
            cells.append(_range(sure.summary.get(name)))
        table.add_row(*cells)
    if any(one.detections for one in score.precisions):
        table.add_section()
    for one in score.precisions:
        if one.precision is not None:
            table.add_row(f"right from score {one.score:g}", _number(one.precision))
    console.print_titled(_titled(title, score), table, *_few(score))


def print_scores(scores: Mapping[str, Score], *, title: str) -> None:
    """The twelve numbers of several policies side by side."""
    some = next(iter(scores.values()))
    # Four policies fit into 80 columns.
    table = console.plain_table("metric", *scores)
    for name in some.metrics.summary:
        table.add_row(name, *(_number(score.metrics.summary[name]) for score in scores.values()))
        if name == "AP" and some.uncertainty and not _few(some):
            row = f"{some.uncertainty.confidence:.0%} interval"
            every = [score.uncertainty for score in scores.values()]
            ranges = (_range(one.summary.get(name)) for one in every if one)
            table.add_row(row, *(text.replace(" to ", "-") for text in ranges))
    console.print_titled(_titled(title, some), table, *_few(some))


def _few(score: Score) -> tuple[str, ...]:
    """Why there is no interval, where there should be one."""
    sure = score.uncertainty
    return (FEW,) if sure and not sure.summary and score.metrics.summary["AP"] is not None else ()


def print_comparison(found: Differences, *, title: str, names: tuple[str, str]) -> None:
    """Differences of AP, and the classes that gained and lost most."""
    table = Table("metric", "A", "B", "B - A")
    if found.resamples:
        table.add_column(f"{found.confidence:.0%} interval")
    cells = partial(_cells, drawn=bool(found.resamples))
    for name, difference in found.summary.items():
        table.add_row(name, *cells(difference))
    ordered = sorted(found.class_ap.items(), key=lambda item: item[1].difference)
    for heading, chosen in (
        ("gained", [item for item in ordered[::-1] if item[1].difference > 0]),
        ("lost", [item for item in ordered if item[1].difference < 0]),
    ):
        if chosen:
            table.add_section()
            table.add_row(Text(f"AP {heading}", style="bold"))
        for name, difference in chosen[:SHOWN_CLASSES]:
            table.add_row(Text(name), *cells(difference))
        if len(chosen) > SHOWN_CLASSES:
            table.add_row(f"and {len(chosen) - SHOWN_CLASSES} more")
    console.print_titled(title, table, f"A: {names[0]}", f"B: {names[1]}", *_notes(found))


def _notes(found: Differences) -> tuple[str, ...]:
    """What the intervals of a comparison mean."""
    if not found.resamples:
        return ()
    better = found.second_better
    share = [] if better is None else [f"B is better in {better:.1%} of the draws"]
    if found.summary and not any(d.difference for d in found.summary.values()):
        share = ["no difference in AP"]
    missing = [d for d in (*found.summary.values(), *found.class_ap.values()) if not d.interval]
    return ("; ".join([*share, "* where the interval leaves out 0"]), *([FEW] if missing else ()))


def _cells(difference: Difference, *, drawn: bool) -> tuple[str, ...]:
    numbers = (
        f"{difference.first:.4f}",
        f"{difference.second:.4f}",
        f"{difference.difference:+.4f}",
    )
    if not drawn:
        return numbers
    sure = difference.interval
    star = " *" if difference.clear else ""
    return (*numbers, f"{sure.low:+.4f} to {sure.high:+.4f}{star}" if sure else "-")


def _titled(title: str, score: Score) -> str:
    return title if score.metric == "coco" else f"{title}, metric {score.metric}, not COCO's"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(found: Interval | None) -> str:
    return f"{found.low:.4f} to {found.high:.4f}" if found else ""
