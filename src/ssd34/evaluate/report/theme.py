"""What a plot of the report is, and the colours of light and dark paper."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ssd34.files.cache import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours as matplotlib and CSS write them: behind everything, of text and lines that matter
    and that matter less, and of faint lines; a series that people with colour blindness tell apart
    (Okabe and Ito); a ramp from the paper to the strongest."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    ramp: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """The theme as matplotlib's settings."""
        from cycler import cycler

        return {
            "figure.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=self.series),
            "grid.color": self.grid,
            "grid.linewidth": 0.8,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "font.size": 11,
            "axes.labelsize": 11,
            "lines.linewidth": 2,
        }


LIGHT = Theme(
    name="light", paper="#ffffff", ink="#1c2126", muted="#5b6570", grid="#e3e7eb",
    series=("#0072b2", "#d55e00", "#009e73", "#a8578a", "#8a6d00", "#2b9fd9", "#6b4c9a", "#555555"),
    ramp=("#ffffff", "#7fb8dc", "#0072b2", "#00304d"),
)  # fmt: skip
DARK = Theme(
    name="dark", paper="#1b2026", ink="#e8ebee", muted="#98a2ad", grid="#343c45",
    series=("#56b4e9", "#f0894a", "#2cc79a", "#dd93c1", "#e6c229", "#7fd0ff", "#b39ddb", "#bbbbbb"),
    ramp=("#1b2026", "#1d5f8f", "#56b4e9", "#e3f4ff"),
)  # fmt: skip


WIDTH = 5.2
"""Inches. At 100 CSS pixels an inch text stays readable where a phone shrinks the picture."""
DOTS = 200
_COLOURS = 256


@dataclass(frozen=True)
class Plot:
    """One plot: the name of its files, what it shows, the same for those who do not see it, with
    the numbers that matter, its height in inches, what puts it on an empty figure, and the numbers
    behind it, JSON-ready."""

    name: str
    title: str
    alt: str
    height: float
    draw: Callable[[Figure, Theme], None]
    data: Mapping[str, Any]


@drawing(extra="report", why="a report")
def render_png(plot: Plot, theme: Theme) -> bytes:
    """The plot as a PNG file; MissingExtraError without matplotlib."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = theme.settings()  # matplotlib's type lists its hundreds of names
    with rc_context(settings):
        figure = Figure(figsize=(WIDTH, plot.height), dpi=DOTS, layout="constrained")
        plot.draw(figure, theme)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    # A plot has few colours: a palette makes the file much smaller.
    file = io.BytesIO()
    picture.quantize(_COLOURS).save(file, format="png", optimize=True)
    return file.getvalue()


def shorten(name: str, limit: int) -> str:
    """A class name that has room."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
