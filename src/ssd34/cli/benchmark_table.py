"""A benchmark's values as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssd34.core.counted import counted
from ssd34.runtime.benchmark_run import OFFLINE

Row = dict[str, str]
"""Cells by column; a cell may have several lines."""


def cpu_line(cpu: dict[str, Any]) -> str:
    """One line about the processor."""
    features = cpu["features"]
    known = "unknown" if features is None else " ".join(n for n, has in features.items() if has)
    return (
        f"{cpu['model']}, {cpu['system']}; instructions: {known or 'none of the known'}; "
        f"{cpu['thread_budget']} of {counted(cpu['processors'], 'processor')} may be used"
    )


def table_of(values: dict[str, Any]) -> Table:
    """The results of one benchmark, a row for each model, engine and thread count."""
    if "loadgen" in values:
        row_of = _offline_loadgen if values["scenario"] == OFFLINE else _single_stream_loadgen
    else:
        row_of = _offline if values["scenario"] == OFFLINE else _single_stream
    rows = [row_of(result) for result in values["results"]]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for name in rows[0]:
        if name in ("model", "stage"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()), end_section=True)
    for refused in values["refused"]:
        table.add_row(Text(f"{_name(refused)}\ncannot run, see below"), end_section=True)
    return table


def _single_stream(result: dict[str, Any]) -> Row:
    detect, network, share = result["detect_ms"], result["network_ms"], result["share"]
    before, tail = (share[name] * detect["median"] for name in ("preprocess", "tail"))
    return {
        "model": _model(result, f"{result['images_per_second']:.2f} images/s"),
        "stage": "preprocess\nnetwork\ntail\ndetect",
        "ms": f"{before:.1f}\n{network['median']:.1f}\n{tail:.1f}\n{detect['median']:.1f}",
        "p90": f"\n{network['p90']:.1f}\n\n{detect['p90']:.1f}",
        "p99": f"\n{network['p99']:.1f}\n\n{detect['p99']:.1f}",
        "share": "\n".join(f"{value:.1%}" for value in share.values()),
        "speed-up": "\n{}\n\n{}".format(
            *(_interval(result["speed_up"][stage]) for stage in ("network", "detect"))
        ),
    }


def _offline(result: dict[str, Any]) -> Row:
    return {
        "model": _model(result, f"{result['pictures_in_a_run']} in a run"),
        "images/s": f"{result['images_per_second']:.2f}",
        "ms a picture": f"{result['per_picture_ms']['median']:.1f}",
        "speed-up": _interval(result["speed_up"]["detect"]),
    }


def _single_stream_loadgen(result: dict[str, Any]) -> Row:
    found = result["loadgen"]
    latency = found.get("90.00 percentile latency (ns)")
    return {
        "model": _model(result),
        "samples/s": _or_dash(found.get("QPS w/ loadgen overhead")),
        "p90 ms": "-" if latency is None else f"{latency / 1e6:.1f}",
        "LoadGen says": _or_dash(found.get("Result is")),
    }


def _offline_loadgen(result: dict[str, Any]) -> Row:
    found = result["loadgen"]
    return {
        "model": _model(result),
        "samples/s": _or_dash(found.get("Samples per second")),
        "LoadGen says": _or_dash(found.get("Result is")),
    }


def _model(result: dict[str, Any], *more: str) -> str:
    memory = result["peak_memory_mb"]
    lines = [
        _name(result),
        *([f"int8: {result['int8']}"] if result["int8"] else []),
        "memory unknown" if memory is None else f"{memory} MB",
        *more,
    ]
    return "\n".join(lines)


def _name(combination: dict[str, Any]) -> str:
    threads = counted(combination["threads"], "thread")
    return f"{combination['model']}\n{combination['engine']}, {threads}"


def _interval(speed_up: dict[str, float]) -> str:
    return f"{speed_up['value']:.2f} ({speed_up['low']:.2f}-{speed_up['high']:.2f})"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
