"""A picture of a search: AP against time of every trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssd34.deploy.search.gate import Criterion, Trial, pareto_front
from ssd34.files.atomic import written_whole
from ssd34.files.cache import load_matplotlib


def plot_trials(trials: Sequence[Trial], path: Path, *, criterion: Criterion, title: str) -> None:
    """Write a PNG: trials as points, accepted ones filled, with the gate and the Pareto front.

    Args:
        trials: at least one; all of the same float file.
        path: the PNG.
        criterion: the gate.
        title: above it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    load_matplotlib(extra="quantize", why="the plot of the trials")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    first = trials[0]
    axes.scatter([first.float_ms], [first.float_ap], marker="*", s=140, color="#444444")
    axes.annotate("float", (first.float_ms, first.float_ap), (-8, -16),
                  textcoords="offset points", ha="right")  # fmt: skip
    for trial in trials:
        axes.scatter(
            [trial.ms], [trial.ap], s=60, zorder=3, edgecolors="#1f6fb2",
            facecolors="#1f6fb2" if trial.accepted else "none",
        )  # fmt: skip
        axes.annotate(str(trial.number), (trial.ms, trial.ap), (6, 5), textcoords="offset points")
    front = pareto_front(list(trials))
    axes.plot([t.ms for t in front], [t.ap for t in front], color="#1f6fb2", alpha=0.4, zorder=2)
    allowed = criterion.max_drop * (first.float_ap if criterion.drop == "relative" else 1)
    axes.axhline(first.float_ap - allowed, color="#b23a1f", ls="--", lw=1)
    axes.axvline(first.float_ms / criterion.min_speedup, color="#b23a1f", ls="--", lw=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds a picture, median")
    axes.set_ylabel("AP")
    axes.set_title(
        f"{title}\nfilled: accepted; dashed: the gate; line: Pareto front",
        fontsize=10,
        parse_math=False,  # a file may be called $
    )
    axes.grid(alpha=0.3)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
