"""Colours of the plots, for light and dark paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Theme:
    """Colours as matplotlib and CSS write them.

    Attributes:
        name: ``light`` or ``dark``.
        paper: behind everything.
        ink: text and lines that matter.
        muted: text and lines that matter less.
        grid: faint lines.
        series: colours that people with colour blindness tell apart (Okabe and Ito).
        ramp: colours from the paper to the strongest.
    """

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
            # Class names are text, also those with dollar signs.
            "text.parse_math": False,
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
