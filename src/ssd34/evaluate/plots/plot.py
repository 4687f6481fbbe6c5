"""Plot: what is drawn, what it says in words, and the numbers behind it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ssd34.evaluate.plots.theme import Theme
from ssd34.zoo.cache import load_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.2
"""Inches. At 100 CSS pixels an inch text stays readable where a phone shrinks the picture."""
DOTS = 200
_COLOURS = 256


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: of its files.
        title: what it shows.
        alt: the same for those who do not see it, with the numbers that matter.
        height: inches.
        draw: puts it on an empty figure.
        data: the numbers behind it, JSON-ready.
    """

    name: str
    title: str
    alt: str
    height: float
    draw: Callable[[Figure, Theme], None]
    data: Mapping[str, Any]


def png(plot: Plot, theme: Theme) -> bytes:
    """The plot as a PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    load_matplotlib(extra="report", why="a report")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = theme.settings()  # matplotlib's type lists its hundreds of names
    with rc_context(settings), warnings.catch_warnings():
        # Class names in scripts that the font lacks are drawn as boxes; the page has them as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, plot.height), dpi=DOTS, layout="constrained")
        plot.draw(figure, theme)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    # A plot has few colours: a palette makes the file much smaller.
    file = io.BytesIO()
    picture.quantize(_COLOURS).save(file, format="png", optimize=True)
    return file.getvalue()


def shortened(name: str, limit: int) -> str:
    """A class name that has room."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
