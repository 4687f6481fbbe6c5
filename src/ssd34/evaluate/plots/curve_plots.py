"""Lines: precision against recall, and what each score threshold gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssd34.evaluate.analysis.curves import Curve, Curves
from ssd34.evaluate.analysis.score_choice import ScoreChoice
from ssd34.evaluate.plots.plot import Plot, shortened
from ssd34.evaluate.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 8
"""As many as there are colours."""


def by_iou(curves: Curves) -> Plot:
    """One curve for each IoU threshold."""

    def draw(figure: Figure, theme: Theme) -> None:
        from matplotlib import colormaps

        axes = _precision_recall(figure)
        # The ends of the scale are too close to the paper.
        low, high = (0.2, 0.85) if theme.name == "light" else (0.4, 1.0)
        colours = colormaps["viridis"](np.linspace(low, high, len(curves.by_iou)))
        for curve, colour in zip(curves.by_iou, colours, strict=True):
            axes.plot(curves.recall, curve.precision, color=colour)
        figure.legend(
            axes.lines, [_name(curve) for curve in curves.by_iou],
            loc="outside lower center", ncols=3, title="IoU threshold (AP)", title_fontsize=10,
        )  # fmt: skip

    ends = [curves.by_iou[0], curves.by_iou[-1]]
    return Plot(
        name="precision-recall-by-iou",
        title="Precision and recall by IoU",
        alt="Precision against recall, the mean over classes, one line for each IoU threshold; "
        + " and ".join(f"AP {curve.ap:.3f} at IoU {curve.name}" for curve in ends),
        height=4.9,
        draw=draw,
        data={"recall": curves.recall, "iou": [dataclasses.asdict(c) for c in curves.by_iou]},
    )


def by_class(curves: Curves, classes: Sequence[str]) -> Plot:
    """One curve for each of some classes, at IoU 0.5."""
    chosen = [curve for curve in curves.by_class if curve.name in classes]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = _precision_recall(figure)
        for k, curve in enumerate(chosen):
            style = ("-", "--")[k // len(theme.series) % 2]
            axes.plot(curves.recall, curve.precision, linestyle=style)
        figure.legend(
            axes.lines, [_name(curve) for curve in chosen],
            loc="outside lower center", ncols=2, title="class (AP50)", title_fontsize=10,
        )  # fmt: skip

    return Plot(
        name="precision-recall-by-class",
        title="Precision and recall by class",
        alt="Precision against recall at IoU 0.50, one line for each of these classes: "
        + ", ".join(f"{curve.name} (AP50 {curve.ap:.3f})" for curve in chosen),
        height=3.9 + 0.22 * -(-len(chosen) // 2),
        draw=draw,
        data={"recall": curves.recall, "classes": [dataclasses.asdict(c) for c in curves.by_class]},
    )


def by_score(scores: ScoreChoice) -> Plot:
    """Precision, recall and F1 against the score threshold."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for name, values in (
            ("precision", scores.precision), ("recall", scores.recall), ("F1", scores.f1)
        ):  # fmt: skip
            axes.plot(scores.scores, values, label=name)
        axes.axvline(scores.best, color=theme.muted, linewidth=1.2, linestyle=":")
        axes.annotate(
            f"best F1 {scores.best_f1:.2f}\nat score {scores.best:.2f}",
            (scores.best, 0.98), xycoords=("data", "axes fraction"),
            xytext=(-6 if scores.best > 0.5 else 6, 0), textcoords="offset points",
            ha="right" if scores.best > 0.5 else "left", va="top", fontsize=10,
            bbox={"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
        axes.set(xlabel="least score", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside lower center", ncols=3)

    return Plot(
        name="score-threshold",
        title="What each score threshold gives",
        alt=f"Precision, recall and F1 against the score threshold at IoU 0.50; the best F1 is "
        f"{scores.best_f1:.3f} at score {scores.best:.3f}",
        height=3.7,
        draw=draw,
        data=dataclasses.asdict(scores),
    )


def _precision_recall(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    return axes


def _name(curve: Curve) -> str:
    return f"{shortened(curve.name, 20)} ({curve.ap:.3f})"
