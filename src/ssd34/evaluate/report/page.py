"""The page: a template, filled, its pictures, and where its numbers come from."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.boxes import Boxes, xyxy_from_xywh
from ssd34.datasets.dataset import Dataset
from ssd34.errors import ImageError, require
from ssd34.evaluate.analysis.analyse import Analysis, Picture
from ssd34.evaluate.metrics.bootstrap import Interval
from ssd34.evaluate.metrics.score import Score
from ssd34.evaluate.report.theme import WIDTH, Plot
from ssd34.evaluate.results import Results
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
    """A picture of the gallery.

    Attributes:
        picture: how it went.
        truth: JPEG with the boxes that should be found.
        detections: JPEG with the boxes that were detected.
        width: of both, pixels.
        height: of both, pixels.
    """

    picture: Picture
    truth: bytes
    detections: bytes
    width: int
    height: int


Drawn = tuple[Boxes, str, Colour]
"""Box (4,) xyxy in pixels of the stored picture, label, colour."""


def make_exhibits(
    chosen: Iterable[Picture], dataset: Dataset, results: Results, *, limit: int
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
        shown.append(
            Exhibit(
                picture=picture,
                truth=_jpeg(truth),
                detections=_jpeg(_draw(image, _detected(picture, dataset, results))),
                width=truth.width,
                height=truth.height,
            )
        )
    return tuple(shown)


def _truth(picture: Picture, dataset: Dataset) -> list[Drawn]:
    sample = dataset.samples[picture.sample]
    drawn: list[Drawn] = []
    for box, label, found in zip(sample.boxes, sample.labels, picture.boxes_found, strict=True):
        name = dataset.labels.name(int(label))
        colour = CROWD if found is None else RIGHT if found else WRONG
        drawn.append((box, name, colour))
    return drawn


def _detected(picture: Picture, dataset: Dataset, results: Results) -> list[Drawn]:
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


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="jpeg", quality=_QUALITY)
    return file.getvalue()


_LIBRARIES = ("ssd34", "hotcoco", "onnxruntime", "numpy", "pillow", "matplotlib", "jinja2")


@dataclass(frozen=True)
class Provenance:
    """How the numbers were measured; the page shows all of it.

    Attributes:
        command: the command line.
        created: when, with time zone.
        inputs: model, data, policy and the like, and their hashes.
        versions: of the software.
        machine: processor, threads, system.
    """

    command: str
    created: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)


def list_versions() -> dict[str, str]:
    """Python, this package and the libraries that have a part in the numbers."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
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


@dataclass(frozen=True, eq=False)
class Page:
    """What the page shows.

    Attributes:
        title: of the page.
        score: COCO's numbers, and their intervals where there are any.
        analysis: what lies behind the numbers.
        plots: by name; those without anything to draw are missing.
        best: pictures that went well.
        worst: pictures that did not.
        unreadable: whether there would be more pictures to show if they could be read.
        provenance: where the numbers come from.
    """

    title: str
    score: Score
    analysis: Analysis
    plots: Mapping[str, DrawnPlot]
    best: Sequence[Exhibit]
    worst: Sequence[Exhibit]
    unreadable: bool
    provenance: Provenance


def render_page(page: Page) -> str:
    """The page of an evaluation as HTML; see `render`.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    return render(
        "page.html.j2",
        title=page.title,
        page=page,
        metrics=page.score.metrics,
        sure=page.score.uncertainty,
        meanings=MEANINGS,
        css_width=round(WIDTH * 100),
        classes=sorted(page.analysis.classes, key=lambda one: -(one.ap or 0)),
        pairs=page.analysis.confusion.pairs(10),
    )


def render(template: str, **values: object) -> str:
    """A page as HTML that refers to nothing outside itself; all names in it are escaped.

    Args:
        template: a file beside this one.
        values: what it shows; ``title`` among them.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report", why="a report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssd34.evaluate.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "interval": _interval,
        "png": _data("png"),
        "jpeg": _data("jpeg"),
        "json": json.dumps,
    }
    text: str = environment.get_template(template).render(**values)
    return text


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(value: Interval | None) -> str:
    return "" if value is None else f"{value.low:.4f} to {value.high:.4f}"


def _data(kind: str) -> Callable[[bytes], str]:
    def uri(data: bytes) -> str:
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    return uri
