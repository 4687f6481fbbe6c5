"""The report on disk: one page, its pictures, its plots, and where its numbers come from."""

from __future__ import annotations

import base64
import dataclasses
import importlib.metadata
import io
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.boxes import Boxes, xyxy_from_xywh
from ssd34.datasets.dataset import Dataset
from ssd34.errors import ImageError, require
from ssd34.evaluate.analysis import RatedPicture, analyse, rank_best, rank_worst
from ssd34.evaluate.report.plots import NAMES, make_plots
from ssd34.evaluate.report.theme import DARK, LIGHT, WIDTH, Plot, render_png
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import Score, apply_metric
from ssd34.files.atomic import write_bytes, write_json, write_text
from ssd34.files.cache import load_matplotlib
from ssd34.images.draw import Colour, draw_labelled_box
from ssd34.machine import describe_cpu

SIDE = 480
"""Pixels of the longer side; small pictures are enlarged, so that labels do not cover them."""
RIGHT: Colour = (0, 140, 220)
WRONG: Colour = (235, 110, 20)
CROWD: Colour = (150, 150, 150)
_QUALITY = 82
_TRIES = 3
_LABELLED = 28


@dataclass(frozen=True)
class Exhibit:
    """A picture of the gallery, and two JPEGs of one size in pixels: with the boxes that should be
    found and with those that were detected."""

    picture: RatedPicture
    truth: bytes
    detections: bytes
    width: int
    height: int


Drawn = tuple[Boxes, str, Colour]
"""Box (4,) xyxy in pixels of the stored picture, label, colour."""


def make_exhibits(
    chosen: Iterable[RatedPicture], dataset: Dataset, results: Results, *, limit: int
) -> tuple[Exhibit, ...]:
    """The first `limit` of the pictures that can be read."""
    shown: list[Exhibit] = []
    for tried, picture in enumerate(chosen):
        if len(shown) == limit or tried == _TRIES * limit:
            break
        try:
            image = dataset.read(dataset.samples[picture.sample])
        except ImageError:  # it was reported when it was evaluated
            continue
        truth = _draw(image, _truth(picture, dataset))
        detections = _draw(image, _detected(picture, dataset, results))
        jpegs = encode_jpeg(truth), encode_jpeg(detections)
        shown.append(Exhibit(picture, *jpegs, truth.width, truth.height))
    return tuple(shown)


def _truth(picture: RatedPicture, dataset: Dataset) -> list[Drawn]:
    sample = dataset.samples[picture.sample]
    colours = {None: CROWD, True: RIGHT, False: WRONG}
    return [
        (box, dataset.labels.name(int(label)), colours[found])
        for box, label, found in zip(sample.boxes, sample.labels, picture.boxes_found, strict=True)
    ]


def _detected(picture: RatedPicture, dataset: Dataset, results: Results) -> list[Drawn]:
    label_of = dataset.labels.label_of_category()
    drawn: list[Drawn] = []
    for index, right in reversed(picture.detections):  # the best lie on top
        name = dataset.labels.name(label_of[int(results.category_ids[index])])
        box = xyxy_from_xywh(results.boxes_xywh[index])
        drawn.append((box, f"{name} {results.scores[index]:.0%}", RIGHT if right else WRONG))
    return drawn


def _draw(image: NDArray[np.uint8], boxes: Iterable[Drawn]) -> Image.Image:
    height, width = image.shape[:2]
    scale = SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image).resize(size)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    limit = np.array([picture.width - 1, picture.height - 1] * 2)
    for box, text, colour in boxes:
        left, top, right, bottom = np.clip(box * scale, 0, limit).tolist()
        # In a crowded picture labels of small boxes would hide everything else.
        label = text if bottom - top >= _LABELLED and right - left >= _LABELLED else ""
        draw_labelled_box(
            canvas, (left, top, right, bottom), label, colour=colour, line=2, font=font
        )
    return picture


def encode_jpeg(picture: Image.Image) -> bytes:
    """A picture of mode RGB as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, format="jpeg", quality=_QUALITY)
    return file.getvalue()


_LIBRARIES = ("ssd34", "hotcoco", "onnxruntime", "numpy", "pillow", "matplotlib", "jinja2")


@dataclass(frozen=True)
class Provenance:
    """How the numbers were measured: the command line, when, with time zone, from what, with which
    software and on which machine."""

    command: str
    created: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)


def list_versions() -> dict[str, str]:
    """Python, this package and the libraries that have a part in the numbers."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_machine(*, threads: int | None = None) -> dict[str, str]:
    """The processor, how many the system has, and the threads that were used."""
    cpu = describe_cpu()
    facts = {
        "processor": cpu.model,
        "processors": str(cpu.processors),
        "features": ", ".join(name for name, there in (cpu.features or {}).items() if there),
        "system": cpu.system,
        "threads": "" if threads is None else str(threads),
    }
    return {name: value for name, value in facts.items() if value}


MEANINGS = {
    "AP": "mean over IoU 0.50 to 0.95, and over classes",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "AP_small": "objects up to 32 x 32 pixels",
    "AP_medium": "up to 96 x 96 pixels",
    "AP_large": "larger objects",
    "AR1": "largest recall with 1 detection a picture and class",
    "AR10": "with 10 detections",
    "AR100": "with 100 detections",
    "AR_small": "objects up to 32 x 32 pixels",
    "AR_medium": "up to 96 x 96 pixels",
    "AR_large": "larger objects",
}


@dataclass(frozen=True)
class DrawnPlot:
    """A plot as PNG files on light and on dark paper."""

    plot: Plot
    light: bytes
    dark: bytes


def render(template: str, **values: object) -> str:
    """A page as HTML that refers to nothing outside itself, from a template beside this file; all
    values, of which ``title`` is one, are escaped. MissingExtraError without Jinja2."""
    jinja2 = require("jinja2", extra="report", why="a report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssd34.evaluate.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value, digits=4: "-" if value is None else f"{value:.{digits}f}",
        "interval": lambda value: "" if value is None else f"{value.low:.4f} to {value.high:.4f}",
        "embedded": lambda data, kind: (
            f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        ),
        "json": json.dumps,
    }
    text: str = environment.get_template(template).render(**values)
    return text


PAGE = "report.html"
NUMBERS = "report.json"
PLOTS = "plots"
STEPS = len(NAMES) + 2


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """What a report is made from.

    Attributes:
        dataset: the ground truth; the pictures of the gallery are read from it.
        results, score, provenance: what was scored, what came out, and how.
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


def check_report(dataset: Dataset, classes: Sequence[str]) -> None:
    """What can be known before a long evaluation.

    Raises:
        MissingExtraError: matplotlib, Jinja2 or hotcoco is not installed.
        OptionError: the data set lacks a class.
    """
    load_matplotlib(extra="report", why="a report")
    require("jinja2", extra="report", why="a report")
    require("hotcoco", extra="evaluate", why="a report")
    for name in classes:
        dataset.labels.label(name)


def write_report(
    folder: Path, report: EvaluationReport, *, progress: Callable[[int], None] = lambda _: None
) -> Path:
    """Write the page and, in ``plots/``, every plot as PNG on light and dark paper and as JSON.

    Each file is written whole or not at all, the page, whose path is returned, last. The folder is
    made if it does not exist; files of an older report there are replaced. `progress` is called
    with the number of steps done, of `STEPS`. What `check_report` looks at is in order.
    """
    dataset = apply_metric(report.score.metric, report.dataset)
    results = report.results.within(dataset)
    analysis = analyse(dataset, results)
    progress(1)
    plots: dict[str, DrawnPlot] = {}
    for done, plot in enumerate(make_plots(analysis, report.classes), start=2):
        plots[plot.name] = DrawnPlot(plot, render_png(plot, LIGHT), render_png(plot, DARK))
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
