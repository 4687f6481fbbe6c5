"""``ssd34 evaluate``."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssd34.cli.console import warn_of_problems
from ssd34.cli.engine import engine_option
from ssd34.cli.exit_codes import PARTLY
from ssd34.cli.outputs import check_outputs, check_places
from ssd34.core.postprocess import POLICIES
from ssd34.core.preprocess import BOTH, CARD, PREPROCESSINGS
from ssd34.data.atomic import is_special, write_text
from ssd34.data.classes import of_classes, with_coco_names
from ssd34.data.coco import annotations_alone
from ssd34.data.dataset import Dataset
from ssd34.data.fingerprint import fingerprint
from ssd34.data.formats import open_dataset
from ssd34.errors import DatasetError, OptionError, require
from ssd34.evaluate.score import METRICS, ScoreOptions, under
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.cli.report import ReportJob


@click.command(short_help="Measure a model, or anybody's detections, on annotated pictures.")
@click.argument("model", required=False)
@click.option("--data", required=True, metavar="PATH", help="Pictures and boxes, as for train.")
@click.option(
    "--policy", "policy_name", type=click.Choice([*POLICIES, "all"]),
    help="How detections are picked, instead of the file's own way; all: side by side. "
    "[default: the file's own way, zoo where it has none]",
)  # fmt: skip
@click.option(
    "--class", "classes", multiple=True, metavar="NAME",
    help="Count only this class; may be repeated.",
)  # fmt: skip
@click.option("--coco-names", is_flag=True, help="COCO's names for VOC's classes.")
@click.option(
    "--preprocess", "preprocessing", type=click.Choice([*PREPROCESSINGS, BOTH]),
    help="card: bit for bit as published; fast: less work on large pictures; both: side by side, "
    "and the difference. [default: card]",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Write all numbers.",
)  # fmt: skip
@click.option(
    "--detections", type=click.Path(path_type=Path), metavar="FILE",
    help="With MODEL: write its detections as COCO results into a new FILE. Without: score those "
    "in FILE.",
)  # fmt: skip
@click.option(
    "--report", "report_folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Write a page with curves, errors and pictures, and its plots and their numbers.",
)  # fmt: skip
@click.option(
    "--report-class", "report_classes", multiple=True, metavar="NAME",
    help="Class with a curve of its own in the report; may be repeated. [default: the commonest]",
)  # fmt: skip
@click.option(
    "--compare", type=click.Path(path_type=Path), nargs=2, metavar="A B",
    help="Compare two files of detections instead.",
)  # fmt: skip
@click.option(
    "--metric", type=click.Choice(METRICS), default="coco",
    help="zoo-2021: with the defects of the published numbers, only to compare with them.",
)  # fmt: skip
@click.option(
    "--resamples", type=click.IntRange(0), default=1000, metavar="N",
    help="Draws of pictures for the intervals; 0: no intervals.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, help="Of these draws.")
@click.option(
    "--resume", is_flag=True,
    help="Go on with what an interrupted evaluation left beside the first output file.",
)  # fmt: skip
@click.option(
    "--overwrite", is_flag=True, help="With MODEL: the FILE of --detections may be replaced."
)
@click.option("--threads", type=click.IntRange(1), help="[default: what this process may use]")
@engine_option
def evaluate(
    *,
    model: str | None,
    data: str,
    policy_name: str | None,
    preprocessing: str | None,
    classes: tuple[str, ...],
    coco_names: bool,
    limit: int | None,
    json_file: Path | None,
    detections: Path | None,
    report_folder: Path | None,
    report_classes: tuple[str, ...],
    compare: tuple[Path, Path] | None,
    metric: str,
    resamples: int,
    seed: int,
    resume: bool,
    overwrite: bool,
    threads: int | None,
    engine: str | None,
) -> None:
    """Measure MODEL on annotated pictures with COCO's box metrics.

    AP is the mean over IoU 0.50 to 0.95, at most 100 detections a picture. Without MODEL,
    --detections FILE is scored and --compare A B compared; without these, MODEL is default.
    """
    require("hotcoco", extra="evaluate", why="evaluation")
    scoring = detections if model is None and compare is None else None
    _check_options(
        {"MODEL": model, "--detections": detections, "--report": report_folder} if compare else {},
        {
            "--policy": policy_name,
            "--preprocess": preprocessing,
            "--threads": threads,
            "--engine": engine,
            "--resume": resume or None,
            "--overwrite": overwrite or None,
        }
        if compare or scoring
        else {},
    )
    written = None if scoring else detections
    outputs = tuple(file for file in (json_file, written) if file)
    _check_outputs(outputs, resume=resume, report=report_folder)
    pages = _pages(report_folder)
    check_outputs(
        (*outputs, *pages),
        files=compare or ([scoring] if scoring else ()),
        models=() if compare or scoring else (model or "default",),
        data=(data,),
    )
    if written and written.is_file() and not (resume or overwrite):
        raise OptionError(
            f"--detections {written}: with MODEL expected a new file to write, got one that "
            "exists; leave MODEL out to score it, or give --overwrite to replace it"
        )
    if overwrite and not written:
        raise OptionError("--overwrite: lets --detections replace a file; give --detections FILE")
    if report_classes and not report_folder:
        raise OptionError("--report-class: names curves of a report; give --report DIR, too")

    pictures = not (compare or scoring)
    everything = open_dataset(data) if pictures else _boxes(data, look=bool(report_folder))
    warn_of_problems(everything)
    check_outputs((*outputs, *pages), datasets=(everything,))
    if coco_names:
        everything = with_coco_names(everything, own_ids=True)  # detections have these
    dataset = of_classes(everything, classes) if classes else everything
    dataset = dataclasses.replace(dataset, samples=dataset.samples[:limit])
    options = ScoreOptions(metric=metric, resamples=resamples, seed=seed)
    under(metric, dataset)  # before the work, not after it
    about = {
        "data": data,
        "data_sha256": fingerprint(dataset),
        "limit": limit,
        "classes": list(classes) or None,
        "ssd34": __version__,
        "problems": len(dataset.problems),
    }

    report = None
    if report_folder:
        report, page = _report(report_folder, data, dataset, options, report_classes, limit)
        outputs = (*outputs, page)

    def emit(values: dict[str, Any]) -> None:
        if json_file:
            write_text(json_file, json.dumps({**about, **values}, indent=1) + "\n")

    failed = 0
    if compare:
        from ssd34.cli.scoring import compare_files

        emit(compare_files(compare, everything, dataset, options))
    elif scoring:
        from ssd34.cli.scoring import score_file

        emit(score_file(scoring, everything, dataset, options, report=report))
    else:
        from ssd34.cli.measure import Outputs, measure

        failed = measure(
            model or "default",
            dataset,
            options,
            policy=policy_name,
            preprocessing=preprocessing or CARD,
            threads=threads,
            engine=engine or DEFAULT_ENGINE,
            resume=resume,
            outputs=Outputs(files=outputs, emit=emit, detections=detections, report=report),
        )
    if failed or dataset.problems:
        raise SystemExit(PARTLY)


def _check_options(with_compare: dict[str, Any], without_model: dict[str, Any]) -> None:
    for given, why in (
        (with_compare, "--compare takes two files of detections"),
        (without_model, "no model runs here"),
    ):
        for name, value in given.items():
            if value is not None:
                raise OptionError(f"{name} {value}: {why}; leave it out")


def _check_outputs(files: tuple[Path, ...], *, resume: bool, report: Path | None) -> None:
    """Refuse files that cannot be written; the folder of the report will be there."""
    check_places(files, made=report)
    if resume and not report and all(map(is_special, files)):
        raise OptionError("--resume: goes on beside an output file; give the same --json FILE")


def _pages(report: Path | None) -> tuple[Path, ...]:
    """The files of a report that an option may name, too."""
    if report is None:
        return ()
    from ssd34.evaluate.report.write import NUMBERS, PAGE

    return report / PAGE, report / NUMBERS


def _boxes(data: str, *, look: bool) -> Dataset:
    """A data set whose pictures are not needed: of a COCO .json, they need not be there.

    To `look` at them they are opened, if they all are there.
    """
    path = Path(data)
    if path.suffix.lower() != ".json" or not path.is_file():
        return open_dataset(data)
    boxes = annotations_alone(path)
    if look:
        with suppress(DatasetError):
            opened = open_dataset(data)
            if len(opened) == len(boxes):
                return opened
    return boxes


def _report(
    folder: Path,
    data: str,
    dataset: Dataset,
    options: ScoreOptions,
    classes: tuple[str, ...],
    limit: int | None,
) -> tuple[ReportJob, Path]:
    """A report that can be written, and its page; the folder is made."""
    from ssd34.cli.report import ReportJob, about_data
    from ssd34.evaluate.report.write import PAGE, check_report

    check_report(folder, under(options.metric, dataset), classes)
    about = about_data(data, fingerprint=fingerprint(dataset), limit=limit)
    folder.mkdir(parents=True, exist_ok=True)
    return ReportJob(folder, dataset, about, classes), folder / PAGE
