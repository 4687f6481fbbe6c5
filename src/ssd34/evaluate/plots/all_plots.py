"""Which plots an analysis gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssd34.evaluate.analysis.analyse import Analysis
from ssd34.evaluate.plots import bar_plots, curve_plots
from ssd34.evaluate.plots.calibration_plot import reliability
from ssd34.evaluate.plots.confusion_plot import confusion_matrix
from ssd34.evaluate.plots.plot import Plot

NAMES = (
    "precision-recall-by-iou", "precision-recall-by-class", "score-threshold", "class-ap",
    "size-ap", "confusion", "errors", "calibration",
)  # fmt: skip


def all_plots(analysis: Analysis, classes: Sequence[str] = ()) -> Iterator[Plot]:
    """The plots for which there is something to draw, in the order of `NAMES`.

    Args:
        analysis: the numbers.
        classes: those with a precision-recall curve of their own; default: those with the most
            objects.
    """
    measured = bool(analysis.curves.by_iou)
    if measured:
        yield curve_plots.by_iou(analysis.curves)
        shown = classes or commonest(analysis)
        if any(curve.name in shown for curve in analysis.curves.by_class):
            yield curve_plots.by_class(analysis.curves, shown)
    if analysis.scores.scores:
        yield curve_plots.by_score(analysis.scores)
    if measured:
        yield bar_plots.class_ap(analysis.classes)
        yield bar_plots.size_ap(analysis.sizes)
    if analysis.confusion.counts.any():
        yield confusion_matrix(analysis.confusion)
    if measured:
        yield bar_plots.error_costs(analysis.errors)
    if analysis.calibration.bins:
        yield reliability(analysis.calibration)


def commonest(analysis: Analysis) -> tuple[str, ...]:
    """The classes with the most objects, as many as a plot has colours for."""
    classes = sorted(analysis.classes, key=lambda one: -one.objects)
    return tuple(one.name for one in classes[: curve_plots.MOST_CLASSES] if one.objects)
