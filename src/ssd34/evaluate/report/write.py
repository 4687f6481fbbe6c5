"""A report on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd34.data.atomic import write_bytes, write_text
from ssd34.data.dataset import Dataset
from ssd34.errors import OptionError, require
from ssd34.evaluate.analysis.analyse import analyse
from ssd34.evaluate.analysis.pictures import best, worst
from ssd34.evaluate.coco_metrics import CocoMetrics
from ssd34.evaluate.plots.all_plots import NAMES, all_plots
from ssd34.evaluate.plots.plot import png
from ssd34.evaluate.plots.theme import DARK, LIGHT
from ssd34.evaluate.report.gallery import exhibits
from ssd34.evaluate.report.page import DrawnPlot, Page, html
from ssd34.evaluate.report.provenance import Provenance

PAGE = "report.html"
PLOTS = "plots"
STEPS = len(NAMES) + 2


@dataclass(frozen=True, eq=False)
class Report:
    """What a report is made from.

    Attributes:
        title: of the page.
        dataset: the ground truth; the pictures of the gallery are read from it.
        results: COCO results that were scored against it.
        metrics: the score.
        provenance: where they come from.
        intervals: low and high end of some of the twelve numbers, by name.
        interval_note: what the intervals are.
        classes: those with a precision-recall curve of their own; default: those with the most
            objects.
        pictures: how many of the best and of the worst are shown.
    """

    title: str
    dataset: Dataset
    results: Sequence[Mapping[str, Any]]
    metrics: CocoMetrics
    provenance: Provenance
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    interval_note: str = ""
    classes: Sequence[str] = ()
    pictures: int = 6


def check_report(folder: Path, dataset: Dataset, classes: Sequence[str] = ()) -> None:
    """What can be known before a long evaluation: everything is installed, the folder can be one.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or hotcoco is not installed.
        OptionError: the folder is a file, or the data set lacks a class.
    """
    for module in ("matplotlib", "jinja2"):
        require(module, extra="report", why="a report")
    require("hotcoco", extra="evaluate", why="a report")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder}: expected a folder for the report, this is a file")
    for name in classes:
        dataset.labels.label(name)


def write_report(
    folder: Path, report: Report, *, progress: Callable[[int], None] = lambda _: None
) -> Path:
    """Write the page and, in ``plots/``, every plot as PNG on light and dark paper and as JSON.

    Each file is written whole or not at all, the page last. Files of an older report in the same
    folder are replaced.

    Args:
        folder: is made if it does not exist.
        report: what to tell.
        progress: called with the number of steps done, of `STEPS`.

    Returns:
        The page.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or hotcoco is not installed.
        OptionError: the folder is a file, or the data set lacks a class.
        OSError: the folder cannot be written.
    """
    check_report(folder, report.dataset, report.classes)
    analysis = analyse(report.dataset, report.results)
    progress(1)
    plots: dict[str, DrawnPlot] = {}
    for done, plot in enumerate(all_plots(analysis, report.classes), start=2):
        plots[plot.name] = DrawnPlot(plot, light=png(plot, LIGHT), dark=png(plot, DARK))
        progress(done)

    def gallery(chosen: Callable[..., Any]) -> Any:
        ranked = chosen(analysis.pictures)
        return exhibits(ranked, report.dataset, report.results, limit=report.pictures)

    text = html(
        Page(
            title=report.title,
            metrics=report.metrics,
            intervals=report.intervals,
            interval_note=report.interval_note,
            analysis=analysis,
            plots=plots,
            best=gallery(best),
            worst=gallery(worst),
            provenance=report.provenance,
        )
    )
    _write_plots(folder / PLOTS, plots)
    numbers = {
        "title": report.title,
        **report.metrics.to_dict(),
        "intervals": {name: list(ends) for name, ends in report.intervals.items()},
        "provenance": dataclasses.asdict(report.provenance),
    }
    write_text(folder / "report.json", json.dumps(numbers, indent=1) + "\n")
    write_text(folder / PAGE, text)
    progress(STEPS)
    return folder / PAGE


def _write_plots(folder: Path, plots: Mapping[str, DrawnPlot]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        files = {f"{name}.png": b"", f"{name}-dark.png": b"", f"{name}.json": b""}
        if drawn := plots.get(name):
            text = json.dumps({"title": drawn.plot.title, **drawn.plot.data}, indent=1)
            files = dict(zip(files, (drawn.light, drawn.dark, text.encode()), strict=True))
        for file, data in files.items():
            if data:
                write_bytes(folder / file, data)
            else:
                (folder / file).unlink(missing_ok=True)
