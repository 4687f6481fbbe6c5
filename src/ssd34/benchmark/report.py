"""A benchmark's numbers as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.benchmark.run import BenchmarkReport, Result
from ssd34.files.cache import drawing
from ssd34.runtime.timing import SINGLE_STREAM, speed_up, summary
from ssd34.text import counted
from ssd34.version import __version__


def make_report(report: BenchmarkReport) -> dict[str, Any]:
    """Everything that was measured, JSON-ready; the times of every round included. Where a run was
    interrupted, only the rounds that every model has finished count."""
    plan = report.plan
    return {
        "ssd34": __version__,
        **plan.to_dict(),
        "warm_up": plan.warm_up,
        "interrupted": report.interrupted,
        "cpu": report.cpu.to_dict(),
        "results": [_values(result, report) for result in report.results],
        "refused": [asdict(refusal) for refusal in report.refused],
    }


def _values(result: Result, report: BenchmarkReport) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": result.model,
        **result.facts,
        "engine": result.engine,
        "threads": result.threads,
        "peak_memory_mb": result.peak_memory and round(result.peak_memory / 1e6),
    }
    scenario = _single_stream if report.plan.scenario == SINGLE_STREAM else _offline
    return values | scenario(result, report)


def _single_stream(result: Result, report: BenchmarkReport) -> dict[str, Any]:
    rounds = min(len(one.stages) for one in report.results)
    ours, first = (np.array(one.stages[:rounds]) for one in (result, report.results[0]))
    detect, network = ours.sum(axis=1), ours[:, 1]
    preprocess, graph, rest = np.median(ours, axis=0)
    in_graph = graph * (result.graph_tail or 0)
    total = preprocess + graph + rest
    return {
        "detect_ms": summary(detect).to_dict(),
        "network_ms": summary(network).to_dict(),
        "images_per_second": round(float(1000 / detect.mean()), 3),
        "detect_to_network": round(float(np.median(detect) / np.median(network)), 4),
        "share": {
            "preprocess": round(float(preprocess / total), 4),
            "network": round(float((graph - in_graph) / total), 4),
            "tail": round(float((rest + in_graph) / total), 4),
        },
        "tail_in_file_known": result.graph_tail is not None,
        "speed_up": {
            "network": speed_up(first[:, 1], network).to_dict(),
            "detect": speed_up(first.sum(axis=1), detect).to_dict(),
        },
        "rounds": {
            name: [round(float(value), 3) for value in ours[:, column]]
            for column, name in enumerate(("preprocess_ms", "network_ms", "tail_ms"))
        },
    }


def _offline(result: Result, report: BenchmarkReport) -> dict[str, Any]:
    rounds = min(len(one.chunks_ms) for one in report.results)
    per_picture, first = (
        np.array(one.chunks_ms[:rounds]) / one.chunk for one in (result, report.results[0])
    )
    return {
        "pictures_in_a_run": result.in_a_run,
        "pictures_per_round": result.chunk,
        "images_per_second": round(float(1000 / per_picture.mean()), 3),
        "per_picture_ms": summary(per_picture).to_dict(),
        "speed_up": {"detect": speed_up(first, per_picture).to_dict()},
        "rounds": {"per_picture_ms": [round(float(value), 3) for value in per_picture]},
    }


FORMATS = ("png", "svg", "pdf")
COLOURS = {"preprocess": "#9aa5b1", "network": "#2b6cb0", "tail": "#dd6b20"}


@drawing(extra="plot", why="--plot")
def draw_benchmark(values: dict[str, Any], path: Path, *, form: str) -> None:
    """Draw the values of `make_report` into a file, in one of `FORMATS`: left a dot for each round
    and a line at the median; right, where the stages are known, the mean time of each.
    MissingExtraError: matplotlib is not installed."""
    from matplotlib.figure import Figure

    results = values["results"]
    staged = "share" in results[0]
    labels = [_label(result) for result in results]
    figure = Figure(figsize=(11 if staged else 6.5, 1.8 + 0.6 * len(results)), layout="constrained")
    axes = figure.subplots(1, 2 if staged else 1, sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0)
    for row, result in enumerate(results):
        times = _times(result)
        middle = float(np.median(times))
        axes[0].plot(
            times, row + jitter.uniform(-0.2, 0.2, len(times)), ".", color="#2b6cb0", alpha=0.5
        )
        axes[0].plot([middle] * 2, [row - 0.35, row + 0.35], color="black")
        axes[0].annotate(f"{middle:.1f}", (middle, row - 0.38), ha="center", va="bottom")
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
    threads = counted(result["threads"], "thread")
    return f"{Path(result['model']).name}\n{result['engine']}, {threads}"
