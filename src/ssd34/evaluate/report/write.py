"""A report on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd34.datasets.dataset import Dataset
from ssd34.errors import OptionError, require
from ssd34.evaluate.analysis.analyse import analyse, rank_best, rank_worst
from ssd34.evaluate.metrics.score import Score, apply_metric
from ssd34.evaluate.report.page import MEANINGS, DrawnPlot, Provenance, make_exhibits, render
from ssd34.evaluate.report.plots import NAMES, make_plots
from ssd34.evaluate.report.theme import DARK, LIGHT, WIDTH, render_png
from ssd34.evaluate.results import Results
from ssd34.files.atomic import write_bytes, write_json, write_text
from ssd34.files.cache import load_matplotlib

PAGE = "report.html"
NUMBERS = "report.json"
PLOTS = "plots"
STEPS = len(NAMES) + 2


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """What a report is made from.

    Attributes:
        title: of the page.
        dataset: the ground truth; the pictures of the gallery are read from it.
        results: what was scored.
        score, provenance: what came out, and how.
        classes: those with a precision-recall curve of their own; default: those with the most
            objects.
        pictures: how many of the best and of the worst are shown.
    """

    title: str
    dataset: Dataset
    results: Results
    score: Score
    provenance: Provenance
    classes: Sequence[str] = ()
    pictures: int = 6


def check_report(folder: Path, dataset: Dataset, classes: Sequence[str] = ()) -> None:
    """What can be known before a long evaluation: everything is installed, the folder can be one.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or hotcoco is not installed.
        OptionError: the folder is a file, or the data set lacks a class.
    """
    load_matplotlib(extra="report", why="a report")
    require("jinja2", extra="report", why="a report")
    require("hotcoco", extra="evaluate", why="a report")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder}: expected a folder for the report, this is a file")
    for name in classes:
        dataset.labels.label(name)


def write_report(
    folder: Path, report: EvaluationReport, *, progress: Callable[[int], None] = lambda _: None
) -> Path:
    """Write the page and, in ``plots/``, every plot as PNG on light and dark paper and as JSON.

    Each file is written whole or not at all, the page last. Files of an older report in the same
    folder are replaced.

    The folder is made if it does not exist; `progress` is called with the number of steps done, of
    `STEPS`. Returns the page's path.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or hotcoco is not installed.
        OptionError: the folder is a file, or the data set lacks a class.
        OSError: the folder cannot be written.
    """
    dataset = apply_metric(report.score.metric, report.dataset)
    check_report(folder, dataset, report.classes)
    results = report.results.within(dataset)
    analysis = analyse(dataset, results)
    progress(1)
    plots: dict[str, DrawnPlot] = {}
    for done, plot in enumerate(make_plots(analysis, report.classes), start=2):
        plots[plot.name] = DrawnPlot(
            plot, light=render_png(plot, LIGHT), dark=render_png(plot, DARK)
        )
        progress(done)
    ranked = (rank_best(analysis.pictures), rank_worst(analysis.pictures))
    good, bad = (make_exhibits(k, dataset, results, limit=report.pictures) for k in ranked)
    wanted = sum(min(len(k), report.pictures) for k in ranked)
    text = render(
        "page.html.j2",
        title=report.title,
        score=report.score,
        metrics=report.score.metrics,
        sure=report.score.uncertainty,
        meanings=MEANINGS,
        a=analysis,
        classes=sorted(analysis.classes, key=lambda one: -(one.ap or 0)),
        pairs=analysis.confusion.pairs(10),
        plots=plots,
        css_width=round(WIDTH * 100),
        best=good,
        worst=bad,
        unreadable=len(good) + len(bad) < wanted,
        provenance=report.provenance,
    )
    _write_plots(folder / PLOTS, plots)
    numbers = {
        "title": report.title,
        **report.score.to_dict(),
        "provenance": dataclasses.asdict(report.provenance),
    }
    write_json(folder / NUMBERS, numbers)
    write_text(folder / PAGE, text)
    progress(STEPS)
    return folder / PAGE


def _write_plots(folder: Path, plots: Mapping[str, DrawnPlot]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        light, dark, data = (folder / f"{name}{end}" for end in (".png", "-dark.png", ".json"))
        if drawn := plots.get(name):
            write_bytes(light, drawn.light)
            write_bytes(dark, drawn.dark)
            write_json(data, {"title": drawn.plot.title, **drawn.plot.data})
        else:
            for file in (light, dark, data):
                file.unlink(missing_ok=True)
