"""The confusion matrix as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssd34.evaluate.analysis.confusion import Confusion
from ssd34.evaluate.plots.plot import Plot, shortened
from ssd34.evaluate.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 12
_FEW = 7


def confusion_matrix(confusion: Confusion) -> Plot:
    """Rows are true classes; each row's shares add up to 1."""
    shown = confusion.of_most_confused(MOST_CLASSES)
    shares = shown.shares()

    def draw(figure: Figure, theme: Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        ramp = LinearSegmentedColormap.from_list(theme.name, theme.ramp)
        axes = figure.subplots()
        axes.imshow(shares, cmap=ramp, vmin=0, vmax=1)
        names = [shortened(name, 16) for name in shown.names]
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
