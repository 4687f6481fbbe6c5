"""The page: a template, filled, and where its numbers come from."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ssd34.errors import require
from ssd34.evaluate.analysis.analyse import Analysis
from ssd34.evaluate.metrics.bootstrap import Interval
from ssd34.evaluate.metrics.score import Score
from ssd34.evaluate.report.gallery import Exhibit
from ssd34.evaluate.report.theme import WIDTH, Plot
from ssd34.machine import this_cpu

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


def versions() -> dict[str, str]:
    """Python, this package and the libraries that have a part in the numbers."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(*, threads: int | None = None) -> dict[str, str]:
    """The processor, how many the system has, and the threads that were used."""
    cpu = this_cpu()
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


def html(page: Page) -> str:
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
