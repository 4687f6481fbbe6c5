"""A plot of a benchmark: how long each model took, and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.files.cache import load_matplotlib

FORMATS = ("png", "svg", "pdf")
COLOURS = {"preprocess": "#9aa5b1", "network": "#2b6cb0", "tail": "#dd6b20"}


def draw_benchmark(values: dict[str, Any], path: Path, *, form: str) -> None:
    """Draw a report of the single-stream or offline scenario.

    Left a dot for each round and a line at the median; right, where the stages are known, the mean
    time of each.

    Args:
        values: of `report_values`.
        path: of the picture.
        form: one of `FORMATS`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    load_matplotlib(extra="plot", why="--plot")
    from matplotlib.figure import Figure

    results = values["results"]
    staged = "share" in results[0]
    labels = [_label(result) for result in results]
    figure = Figure(figsize=(11 if staged else 6.5, 1.8 + 0.6 * len(results)), layout="constrained")
    axes = figure.subplots(1, 2 if staged else 1, sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0)
    for row, result in enumerate(results):
        times = _times(result)
        axes[0].plot(
            times, row + jitter.uniform(-0.2, 0.2, len(times)), ".", color="#2b6cb0", alpha=0.5
        )
        axes[0].plot([np.median(times)] * 2, [row - 0.35, row + 0.35], color="black")
        axes[0].annotate(
            f"{np.median(times):.1f}",
            (float(np.median(times)), row - 0.38),
            ha="center",
            va="bottom",
        )
    what = "detect" if staged else "a picture"
    longest = max(_times(result).max() for result in results)
    axes[0].set(
        xlabel=f"{what}: ms, each round and median",
        xlim=(0, 1.1 * longest),
        ylim=(-0.75, len(results) - 0.5),
    )
    axes[0].set_yticks(range(len(results)), labels)
    axes[0].invert_yaxis()
    if staged:
        left = np.zeros(len(results))
        for stage, colour in COLOURS.items():
            share = [result["share"][stage] * result["detect_ms"]["median"] for result in results]
            axes[1].barh(range(len(results)), share, left=left, color=colour, label=stage)
            left += share
        for row, result in enumerate(results):
            speed = result["speed_up"]["detect"]["value"]
            axes[1].annotate(f" {speed:.2f} x", (float(left[row]), row), va="center")
        axes[1].set(xlabel="where the median goes: ms", xlim=(0, 1.15 * left.max()))
        figure.legend(loc="outside lower right", ncols=len(COLOURS), frameon=False)
    figure.suptitle(f"{values['scenario']}, {values['cpu']['model']}", fontsize="medium")
    figure.savefig(path, format=form, dpi=150)


def _times(result: dict[str, Any]) -> NDArray[np.float64]:
    """Of a picture in each round: all its stages together."""
    stages: NDArray[np.float64] = np.array(list(result["rounds"].values()))
    return np.asarray(stages.sum(axis=0))


def _label(result: dict[str, Any]) -> str:
    threads = result["threads"]
    return (
        f"{Path(result['model']).name}\n{result['engine']}, {threads} thread{'s' * (threads > 1)}"
    )
