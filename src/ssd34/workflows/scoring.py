"""Detections to numbers on annotated pictures: scored, compared, reported; from files here, from a
model in `ssd34.workflows.evaluate`."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.datasets.coco import read_annotations_alone
from ssd34.datasets.dataset import Dataset, fingerprint
from ssd34.datasets.open import choose_part, open_dataset
from ssd34.errors import DatasetError, OptionError, require
from ssd34.evaluate.bootstrap import match
from ssd34.evaluate.report.page import (
    NUMBERS,
    PAGE,
    STEPS,
    EvaluationReport,
    Provenance,
    check_report,
    describe_machine,
    list_versions,
    write_report,
)
from ssd34.evaluate.results import Results, find_coverage_gap, read_results
from ssd34.evaluate.score import Differences, Score, ScoreOptions, apply_metric, compare, score
from ssd34.files.atomic import compute_sha256, write_json
from ssd34.text import counted
from ssd34.version import __version__
from ssd34.workflows.outputs import check_outputs

_ROUNDING = 1e-6


class EvaluateListener:
    """Hears what happens meanwhile. This one does nothing; override what you want to hear."""

    def dataset_opened(self, dataset: Dataset) -> None:
        """The data are open; ``dataset.problems`` had to be left out."""

    def engine_chosen(self, reason: str) -> None:
        """Of two engines one was taken, and why."""

    def warned(self, message: str) -> None:
        """Something is odd or cannot be read; the evaluation continues."""

    def progressed(self, step: str, done: int, total: int) -> None:
        """So much of a step, such as ``evaluating``, is done."""

    def interrupted(self, done: int, total: int, kept: Path | None) -> None:
        """By the keyboard; so many pictures were done and lie in `kept`, for ``resume``."""


SILENT = EvaluateListener()


@contextmanager
def telling_what_is_kept(
    listener: EvaluateListener, done: Callable[[], int], total: int, kept: Path | None
) -> Iterator[None]:
    """Tell the listener of an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        listener.interrupted(done(), total, kept)
        raise


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ScoreOptions):
    """How detections are scored, on which part of a data set, and what is written.

    Attributes:
        classes: only these count; none: all.
        coco_names: COCO's names for VOC's classes.
        limit: only the first so many pictures.
        json_file: takes all numbers.
        report: folder for a page with curves, errors and pictures.
        report_classes: those with a curve of their own in the report; none: the commonest.
        command: what the report says it was made by.
    """

    classes: tuple[str, ...] = ()
    coco_names: bool = False
    limit: int | None = None
    json_file: Path | None = None
    report: Path | None = None
    report_classes: tuple[str, ...] = ()
    command: str = "ssd34.evaluate, from Python"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("json_file", "report", "detections"):  # a path may be a text, as elsewhere
            if isinstance(given := getattr(self, name, None), str):
                object.__setattr__(self, name, Path(given))
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"expected a limit of at least 1 picture, got {self.limit}")
        if self.report_classes and not self.report:
            raise OptionError("--report-class: names curves of a report; give --report DIR, too")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        title: what on what.
        scores: by policy; of detections in a file one, by the file's name.
        results: the detections, in COCO's results form; under the first policy.
        unreadable: how many pictures could not be read; they count as empty.
        problems: how many pictures or boxes of the data set had to be left out.
        values: all numbers and where they come from, JSON-ready.
        report: the page, if one was asked for.
    """

    title: str
    scores: Mapping[str, Score]
    results: Results
    unreadable: int
    problems: int
    values: Mapping[str, Any]
    report: Path | None

    @property
    def score(self) -> Score:
        """The first one, where there are several."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True, eq=False)
class ComparedDetections:
    """Two files of detections on the same pictures.

    Attributes:
        title: what on what.
        comparison: the differences.
        problems: how many pictures or boxes of the data set had to be left out.
        values: all numbers, JSON-ready.
    """

    title: str
    comparison: Differences
    problems: int
    values: Mapping[str, Any]


def score_detections(
    file: Path, data: str | Path, options: ScoringOptions | None = None, *,
    listener: EvaluateListener = SILENT,
) -> Evaluation:  # fmt: skip
    """Score anybody's detections, a file of COCO results, on a data set whose pictures need not be
    there; errors as `evaluate`."""
    options = options or ScoringOptions()
    everything, dataset = _open_boxes(data, options, files=(file,), listener=listener)
    results = _read(file, everything, dataset, listener)
    if options.report:
        results = _between_0_and_1(results, file)
    found = score_results(dataset, results, options, listener)
    about = {"detections": str(file), "detections_sha256": compute_sha256(file)}
    about_data = describe_data(data, dataset, options)
    page = report_results(
        options, about_data, dataset, results, found,
        subject=file.name, about=about, listener=listener,
    )  # fmt: skip
    values = {**about_data, **about, **found.to_dict()}
    write_numbers(options, values)
    title = f"{file} on {dataset.name}: {counted(len(dataset), 'picture')}"
    return Evaluation(title, {file.name: found}, results, 0, len(dataset.problems), values, page)


def compare_detections(
    files: tuple[Path, Path], data: str | Path, options: ScoringOptions | None = None, *,
    listener: EvaluateListener = SILENT,
) -> ComparedDetections:  # fmt: skip
    """Compare two files of detections on the same pictures; see `score_detections`."""
    options = options or ScoringOptions()
    if options.report:
        raise OptionError(
            f"--report {options.report}: --compare takes two files of detections; leave it out"
        )
    everything, dataset = _open_boxes(data, options, files=files, listener=listener)
    seen = apply_metric(options.metric, dataset)
    first, second = (_read(file, everything, dataset, listener) for file in files)
    found = compare(
        match(seen, first.within(seen)),
        match(seen, second.within(seen)),
        resamples=options.resamples,
        seed=options.seed,
        progress=_progress(listener, "resampling", 2 * options.resamples),
    )
    values = {
        **describe_data(data, dataset, options),
        "metric": options.metric,
        "first": str(files[0]),
        "second": str(files[1]),
        "first_sha256": compute_sha256(files[0]),
        "second_sha256": compute_sha256(files[1]),
        **found.to_dict(),
    }
    write_numbers(options, values)
    metric = "" if options.metric == "coco" else f", metric {options.metric}, not COCO's"
    title = f"{dataset.name}: {counted(len(dataset), 'picture')}{metric}"
    return ComparedDetections(title, found, len(dataset.problems), values)


def _open_boxes(
    data: str | Path, options: ScoringOptions, *, files: Sequence[Path], listener: EvaluateListener
) -> tuple[Dataset, Dataset]:
    """All that detections in files may name, and what counts of it."""
    require("hotcoco", extra="evaluate", why="evaluation")
    everything = read_boxes(data, look=bool(options.report))
    check_scoring_outputs(options, everything, data=data, files=files)
    listener.dataset_opened(everything)
    return choose_data(everything, options)


def _read(file: Path, everything: Dataset, dataset: Dataset, listener: EvaluateListener) -> Results:
    results = read_results(file, everything).within(dataset)
    gap = find_coverage_gap(results, dataset)
    if gap:
        listener.warned(
            f"{file}: has no detections in the last {gap} of {len(dataset)} pictures, which count "
            "as missed; if it was made on fewer, give --limit"
        )
    return results


def _between_0_and_1(results: Results, file: Path) -> Results:
    """Detections whose scores a report can draw: what rounding added is cut off."""
    scores = results.scores
    if len(scores) and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise OptionError(
            f"{file}: scores from {scores.min():g} to {scores.max():g}; --report draws them from 0 "
            "to 1: scale them, or leave --report out"
        )
    return dataclasses.replace(results, scores=scores.clip(0, 1))


def read_boxes(data: str | Path, *, look: bool) -> Dataset:
    """A data set whose pictures need not be there, of a COCO .json; to `look` at them they are
    opened, if all are."""
    path = Path(data)
    if path.suffix.lower() != ".json" or not path.is_file():
        return open_dataset(data)
    boxes = read_annotations_alone(path)
    if look:
        with suppress(DatasetError):
            opened = open_dataset(data)
            if len(opened) == len(boxes):
                return opened
    return boxes


def check_scoring_outputs(
    options: ScoringOptions,
    everything: Dataset,
    *,
    data: str | Path,
    files: Sequence[Path] = (),
    models: Sequence[str] = (),
    detections: Path | None = None,
) -> tuple[Path, ...]:
    """The files that will be written, the report's page last; none of them is read here."""
    report = options.report
    outputs = tuple(file for file in (options.json_file, detections) if file)
    pages = (report / PAGE, report / NUMBERS) if report else ()
    check_outputs(
        (*outputs, *pages), files=files, models=models, data=(data,), datasets=(everything,),
        made=(report,),
    )  # fmt: skip
    return (*outputs, *pages[:1])


def choose_data(everything: Dataset, options: ScoringOptions) -> tuple[Dataset, Dataset]:
    """Everything under the names asked for, and the part that counts; what metric and report refuse
    is refused."""
    # Detections have the ids of the data's own.
    everything = choose_part(everything, coco_names=options.coco_names, own_ids=True)
    dataset = choose_part(everything, classes=options.classes, limit=options.limit)
    seen = apply_metric(options.metric, dataset)  # before the work, not after it
    if options.report:
        check_report(seen, options.report_classes)
    return everything, dataset


def describe_data(data: str | Path, dataset: Dataset, options: ScoringOptions) -> dict[str, Any]:
    """The data that count, JSON-ready."""
    return {
        "data": str(data),
        "data_sha256": fingerprint(dataset),
        "limit": options.limit,
        "classes": list(options.classes) or None,
        "ssd34": __version__,
        "problems": len(dataset.problems),
    }


def score_results(
    dataset: Dataset, results: Results, options: ScoreOptions, listener: EvaluateListener
) -> Score:
    """The score of detections; the listener hears of its progress."""
    progress = _progress(listener, "resampling", options.resamples)
    return score(dataset, results, options, progress=progress)


def _progress(listener: EvaluateListener, step: str, total: int) -> Callable[[int], None]:
    return lambda done: listener.progressed(step, done, total)


def write_numbers(options: ScoringOptions, values: Mapping[str, Any]) -> None:
    """Write all numbers into the file that was asked for."""
    if options.json_file:
        write_json(options.json_file, values)


def report_results(
    options: ScoringOptions,
    about_data: Mapping[str, Any],
    dataset: Dataset,
    results: Results,
    found: Score,
    *,
    subject: str,
    about: Mapping[str, object],
    listener: EvaluateListener,
    threads: int | None = None,
) -> Path | None:
    """Write the report that was asked for; returns its page. `about` is what is known of the
    subject."""
    if not options.report:
        return None
    data = about_data["data"]
    inputs = {**about, "data": data, "annotations_sha256": about_data["data_sha256"]}
    if Path(data).is_file():  # a file's hash says more than the annotations'
        inputs["data file_sha256"] = compute_sha256(Path(data))
    if options.limit:
        inputs["limit"] = f"the first {counted(options.limit, 'picture')}"
    inputs["metric"] = found.metric
    report = EvaluationReport(
        title=f"{subject} on {Path(dataset.name).name}",
        dataset=dataset,
        results=results,
        score=found,
        provenance=Provenance(
            command=options.command,
            created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            inputs={name.replace("_sha256", " SHA-256"): str(v) for name, v in inputs.items()},
            versions=list_versions(),
            machine=describe_machine(threads=threads),
        ),
        classes=options.report_classes,
    )
    return write_report(options.report, report, progress=_progress(listener, "report", STEPS))
