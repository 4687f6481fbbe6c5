"""The plots of a report, with matplotlib."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssd34.evaluate.analysis import Analysis
from ssd34.evaluate.counts import Confusion, ErrorTypes, Part
from ssd34.evaluate.curves import BINS, CalibrationCurve, Curve, Curves, ScoreChoice
from ssd34.evaluate.report.theme import Plot, Theme, shorten
from ssd34.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NAMES = (
    "precision-recall-by-iou", "precision-recall-by-class", "score-threshold", "class-ap",
    "size-ap", "confusion", "errors", "calibration",
)  # fmt: skip


def make_plots(analysis: Analysis, classes: Sequence[str] = ()) -> Iterator[Plot]:
    """The plots for which there is something to draw, in the order of `NAMES`; some classes, unless
    told otherwise those with the most objects, have a precision-recall curve of their own."""
    measured = bool(analysis.curves.by_iou)
    if measured:
        yield plot_iou_curves(analysis.curves)
        shown = classes or find_commonest(analysis)
        if any(curve.name in shown for curve in analysis.curves.by_class):
            yield plot_class_curves(analysis.curves, shown)
    if analysis.scores.scores:
        yield plot_scores(analysis.scores)
    if measured:
        yield plot_class_ap(analysis.classes)
        yield plot_size_ap(analysis.sizes)
    if analysis.confusion.counts.any():
        yield plot_confusion(analysis.confusion)
    if measured:
        yield plot_error_costs(analysis.errors)
    if analysis.calibration.bins:
        yield plot_reliability(analysis.calibration)


def find_commonest(analysis: Analysis) -> tuple[str, ...]:
    """The classes with the most objects, as many as a plot has colours for."""
    classes = sorted(analysis.classes, key=lambda one: -one.objects)
    return tuple(one.name for one in classes[:MOST_CURVES] if one.objects)


MOST_CURVES = 8
"""As many as there are colours."""


def plot_iou_curves(curves: Curves) -> Plot:
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


def plot_class_curves(curves: Curves, classes: Sequence[str]) -> Plot:
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


def plot_scores(scores: ScoreChoice) -> Plot:
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
    return f"{shorten(curve.name, 20)} ({curve.ap:.3f})"


MOST_BARS = 80


def plot_class_ap(classes: Sequence[Part]) -> Plot:
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
        axes.set_yticks(rows, [shorten(one.name, 24) for one in shown], fontsize=9)
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


def plot_size_ap(sizes: Sequence[Part]) -> Plot:
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


def plot_error_costs(errors: ErrorTypes) -> Plot:
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


MOST_CONFUSED = 12
_FEW = 7


def plot_confusion(confusion: Confusion) -> Plot:
    """Rows are true classes; each row's shares add up to 1."""
    shown = confusion.of_most_confused(MOST_CONFUSED)
    shares = shown.shares()

    def draw(figure: Figure, theme: Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        ramp = LinearSegmentedColormap.from_list(theme.name, theme.ramp)
        axes = figure.subplots()
        axes.imshow(shares, cmap=ramp, vmin=0, vmax=1)
        names = [shorten(name, 16) for name in shown.names]
        size = 10 if len(names) <= _FEW else 8.5
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.set(xlabel="detected as", ylabel="true class")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        # Row and column of the background stand apart.
        for line in (axes.axhline, axes.axvline):
            line(len(names) - 1.5, color=theme.muted, linewidth=1)
        for row, values in enumerate(shares):
            for column, share in enumerate(values):
                if shown.counts[row, column]:
                    axes.text(
                        column, row, f"{100 * share:.0f}", ha="center", va="center",
                        fontsize=9 if len(names) <= _FEW else 7,
                        color=theme.paper if share > 0.5 else theme.ink,
                    )  # fmt: skip

    pairs = confusion.pairs(3)
    return Plot(
        name="confusion",
        title="What is taken for what",
        alt="Confusion matrix, in per cent of each true class, with background"
        + (
            "; most frequent: "
            + ", ".join(f"{true} taken for {said} ({count})" for true, said, count in pairs)
            if pairs
            else "; no class was taken for another"
        ),
        height=5.2,
        draw=draw,
        data={
            "score": confusion.score,
            "names": confusion.names,
            "counts": confusion.counts.tolist(),
        },
    )


def plot_reliability(calibration: CalibrationCurve) -> Plot:
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
