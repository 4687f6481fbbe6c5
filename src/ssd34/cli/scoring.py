"""``ssd34 evaluate`` of detections that are in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.cli.console import progress_bar, warn
from ssd34.cli.scores import print_comparison, print_score
from ssd34.core.counted import counted
from ssd34.data.checksum import sha256_of
from ssd34.data.dataset import Dataset
from ssd34.errors import OptionError
from ssd34.evaluate.bootstrap import match
from ssd34.evaluate.comparison import Comparison, compare
from ssd34.evaluate.results import Results
from ssd34.evaluate.results_json import coverage_gap, read_results
from ssd34.evaluate.score import Score, ScoreOptions, score, under

if TYPE_CHECKING:
    from ssd34.cli.report import ReportJob


_ROUNDING = 1e-6


def scored(dataset: Dataset, results: Results, options: ScoreOptions) -> Score:
    """Score with a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task("resampling", total=options.resamples)
        return score(
            dataset, results, options, progress=lambda done: bar.update(task, completed=done)
        )


def score_file(
    file: Path,
    everything: Dataset,
    dataset: Dataset,
    options: ScoreOptions,
    *,
    report: ReportJob | None = None,
) -> dict[str, Any]:
    """Score a file of detections and print it.

    Args:
        file: COCO results.
        everything: all pictures and classes that it may name.
        dataset: those that count.
        options: how to score.
        report: to be written, too.

    Returns:
        The JSON-ready numbers.
    """
    results = _read(file, everything, dataset)
    if report:
        results = _between_0_and_1(results, file)
    found = scored(dataset, results, options)
    print_score(found, title=f"{file} on {dataset.name}: {counted(len(dataset), 'picture')}")
    about = {"detections": str(file), "detections_sha256": sha256_of(file)}
    if report:
        report.write(results, found, subject=file.name, about=about)
    return {**about, **found.to_dict()}


def _between_0_and_1(results: Results, file: Path) -> Results:
    """Detections whose scores a report can draw: what rounding added is cut off."""
    scores = results.scores
    if len(scores) and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise OptionError(
            f"{file}: scores from {scores.min():g} to {scores.max():g}; --report draws them from 0 "
            "to 1: scale them, or leave --report out"
        )
    return dataclasses.replace(results, scores=scores.clip(0, 1))


def compare_files(
    files: tuple[Path, Path], everything: Dataset, dataset: Dataset, options: ScoreOptions
) -> dict[str, Any]:
    """Compare two files of detections on the same pictures and print it; see `score_file`."""
    first, second = (_read(file, everything, dataset) for file in files)
    found = compared(dataset, (first, second), options)
    metric = "" if options.metric == "coco" else f", metric {options.metric}, not COCO's"
    print_comparison(
        found,
        title=f"{dataset.name}: {counted(len(dataset), 'picture')}{metric}",
        names=(str(files[0]), str(files[1])),
    )
    names = ("first", "second")
    return {
        "metric": options.metric,
        **{name: str(file) for name, file in zip(names, files, strict=True)},
        **{f"{name}_sha256": sha256_of(file) for name, file in zip(names, files, strict=True)},
        **found.to_dict(),
    }


def compared(dataset: Dataset, both: tuple[Results, Results], options: ScoreOptions) -> Comparison:
    """Compare two sets of detections on the same pictures with a progress bar."""
    seen = under(options.metric, dataset)
    first, second = (match(seen, results.within(seen)) for results in both)
    with progress_bar() as bar:
        task = bar.add_task("resampling", total=2 * options.resamples)
        return compare(
            first,
            second,
            resamples=options.resamples,
            seed=options.seed,
            progress=lambda done: bar.advance(task, done),
        )


def _read(file: Path, everything: Dataset, dataset: Dataset) -> Results:
    results = read_results(file, everything).within(dataset)
    gap = coverage_gap(results, dataset)
    if gap:
        warn(
            f"{file}: has no detections in the last {gap} of {len(dataset)} pictures, which count "
            "as missed; if it was made on fewer, give --limit"
        )
    return results
