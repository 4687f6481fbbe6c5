"""Bars: AP by class and by size, and what errors cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssd34.core.counted import counted
from ssd34.evaluate.analysis.breakdown import Part
from ssd34.evaluate.analysis.error_types import ErrorTypes
from ssd34.evaluate.plots.plot import Plot, shortened
from ssd34.evaluate.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 80


def class_ap(classes: Sequence[Part]) -> Plot:
    """AP and AP50 of each class, the best on top; of very many only the best and the worst."""
    measured = sorted((one for one in classes if one.ap is not None), key=_ap, reverse=True)
    shown = measured
    if len(measured) > MOST_BARS:
        shown = measured[: MOST_BARS // 2] + measured[-MOST_BARS // 2 :]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        rows = np.arange(len(shown))
        axes.barh(rows, [one.ap50 or 0 for one in shown], height=0.72, color=theme.grid,
                  edgecolor=theme.muted, linewidth=0.6, label="AP50")  # fmt: skip
        axes.barh(rows, [_ap(one) for one in shown], height=0.72, color=theme.series[0], label="AP")
        axes.set_yticks(rows, [shortened(one.name, 24) for one in shown], fontsize=9)
        axes.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, None), xlabel="AP (filled) and AP50")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        for row, one in enumerate(shown):
            axes.annotate(
                f"{_ap(one):.3f}", (max(_ap(one), one.ap50 or 0), row), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=8, color=theme.muted,
            )  # fmt: skip
        axes.margins(x=0.12)
        axes.set_xlim(0, max(0.01, *((one.ap50 or 0) for one in shown)) * 1.12)

    left_out = len(measured) - len(shown)
    return Plot(
        name="class-ap",
        title="AP by class",
        alt=f"Bars of AP and AP50 for {counted(len(shown), 'class')}, from {shown[0].name} "
        f"({_ap(shown[0]):.3f}) down to {shown[-1].name} ({_ap(shown[-1]):.3f})"
        + (f"; {left_out} classes between the best and the worst are left out" if left_out else ""),
        height=0.9 + 0.18 * len(shown),
        draw=draw,
        data={"classes": [dataclasses.asdict(one) for one in classes]},
    )


def size_ap(sizes: Sequence[Part]) -> Plot:
    """AP and AR of small, medium and large objects."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        columns = np.arange(len(sizes))
        for k, (name, values) in enumerate(
            (("AP", [one.ap for one in sizes]), ("AP50", [one.ap50 for one in sizes]),
             ("AR100", [one.recall for one in sizes]))
        ):  # fmt: skip
            place = columns + 0.27 * (k - 1)
            bars = axes.bar(place, [value or 0 for value in values], width=0.25, label=name,
                            color=theme.series[k])  # fmt: skip
            axes.bar_label(
                bars, ["-" if value is None else f"{value:.3f}" for value in values],
                padding=2, fontsize=9,
            )  # fmt: skip
        axes.set_xticks(columns, [f"{one.name}\n{counted(one.objects, 'object')}" for one in sizes])
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
        axes.margins(y=0.12)
        figure.legend(loc="outside lower center", ncols=3)

    return Plot(
        name="size-ap",
        title="AP by object size",
        alt="Bars of AP, AP50 and AR100 by object size: "
        + ", ".join(
            f"{one.name} {'not measured' if one.ap is None else f'AP {one.ap:.3f}'}, "
            f"{counted(one.objects, 'object')}"
            for one in sizes
        ),
        height=3.7,
        draw=draw,
        data={"sizes": [dataclasses.asdict(one) for one in sizes]},
    )


def error_costs(errors: ErrorTypes) -> Plot:
    """What each kind of error costs."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        rows = np.arange(len(errors.kinds))
        bars = axes.barh(rows, [one.ap50_lost for one in errors.kinds], color=theme.series[1])
        axes.bar_label(bars, [f"{one.ap50_lost:.3f}" for one in errors.kinds], padding=3,
                       fontsize=10)  # fmt: skip
        axes.set_yticks(rows, [one.name for one in errors.kinds])
        axes.invert_yaxis()
        axes.set(xlabel="AP50 gained if only these were put right")
        axes.set_xlim(0, max(0.01, *(one.ap50_lost for one in errors.kinds)) * 1.15)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    return Plot(
        name="errors",
        title="What errors cost",
        alt="Bars of the AP50 that each kind of error costs: "
        + ", ".join(f"{one.name} {one.ap50_lost:.3f}" for one in errors.kinds),
        height=3.1,
        draw=draw,
        data=dataclasses.asdict(errors),
    )


def _ap(part: Part) -> float:
    return part.ap or 0.0
