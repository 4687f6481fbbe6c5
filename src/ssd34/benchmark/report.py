"""A benchmark's numbers as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ssd34.benchmark.run import Report, Result
from ssd34.runtime.timing import SINGLE_STREAM, speed_up, summary
from ssd34.version import __version__


def report_values(report: Report) -> dict[str, Any]:
    """Everything that was measured, JSON-ready; the times of every round included.

    Where a run was interrupted, only the rounds that every model has finished count.
    """
    plan = report.plan
    return {
        "ssd34": __version__,
        "scenario": plan.scenario,
        "pictures": len(plan.used) or "one random picture of 640 x 480",
        "warm_up": plan.warm_up,
        "interrupted": report.interrupted,
        "cpu": report.cpu.to_dict(),
        "results": [_values(result, report) for result in report.results],
        "refused": [asdict(refusal) for refusal in report.refused],
    }


def _values(result: Result, report: Report) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": result.model,
        **result.facts,
        "engine": result.engine,
        "threads": result.threads,
        "peak_memory_mb": result.peak_memory and round(result.peak_memory / 1e6),
    }
    scenario = _single_stream if report.plan.scenario == SINGLE_STREAM else _offline
    return values | scenario(result, report)


def _single_stream(result: Result, report: Report) -> dict[str, Any]:
    rounds = min(len(one.stages) for one in report.results)
    ours, first = (np.array(one.stages[:rounds]) for one in (result, report.results[0]))
    detect, network = ours.sum(axis=1), ours[:, 1]
    preprocess, graph, rest = np.median(ours, axis=0)
    in_graph = graph * (result.graph_tail or 0)
    total = preprocess + graph + rest
    return {
        "detect_ms": summary(detect).to_dict(),
        "network_ms": summary(network).to_dict(),
        "images_per_second": _rate(1000 / detect.mean()),
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


def _offline(result: Result, report: Report) -> dict[str, Any]:
    rounds = min(len(one.chunks_ms) for one in report.results)
    per_picture, first = (
        np.array(one.chunks_ms[:rounds]) / one.chunk for one in (result, report.results[0])
    )
    return {
        "pictures_in_a_run": result.in_a_run,
        "pictures_per_round": result.chunk,
        "images_per_second": _rate(1000 / per_picture.mean()),
        "per_picture_ms": summary(per_picture).to_dict(),
        "speed_up": {"detect": speed_up(first, per_picture).to_dict()},
        "rounds": {"per_picture_ms": [round(float(value), 3) for value in per_picture]},
    }


def _rate(value: float) -> float:
    return round(float(value), 3)
