"""The reliability diagram."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ssd34.evaluate.analysis.calibration import BINS, Calibration
from ssd34.evaluate.plots.plot import Plot
from ssd34.evaluate.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability(calibration: Calibration) -> Plot:
    """Share of right detections against score, and how many detections there are."""

    def draw(figure: Figure, theme: Theme) -> None:
        from matplotlib.ticker import NullLocator

        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        centres = [(one.low + one.high) / 2 for one in calibration.bins]
        width = 0.92 / BINS
        axes.bar(
            centres, [one.right for one in calibration.bins], width, label="share that is right"
        )
        axes.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=1.2, label="perfect scores")
        axes.set(ylabel="right", xlim=(0, 1), ylim=(0, 1.02))
        counts.bar(centres, [one.count for one in calibration.bins], width, color=theme.muted)
        counts.set(xlabel="score", ylabel="detections", yscale="log", ylim=(0.5, None))
        counts.yaxis.set_major_formatter("{x:,.0f}")
        counts.yaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside lower center", ncols=2)

    return Plot(
        name="calibration",
        title="Do scores mean what they say",
        alt="Share of right detections for each range of scores: "
        + ", ".join(f"{one.low:.1f} to {one.high:.1f} {one.right:.2f}" for one in calibration.bins)
        + f"; expected calibration error {calibration.ece:.3f}",
        height=4.6,
        draw=draw,
        data=dataclasses.asdict(calibration),
    )
