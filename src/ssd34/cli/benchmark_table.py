"""A benchmark's values as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssd34.core.counted import counted
from ssd34.runtime.benchmark_run import OFFLINE, SERVER

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
        row_of = {OFFLINE: _offline, SERVER: _server}.get(values["scenario"], _single_stream)
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


def _server(result: dict[str, Any]) -> Row:
    best = result["highest_rate"]
    rates = [rate for rate in result["rates"] if best is None or rate["rate"] == best]
    if best == 0:  # the search found none: how far the lowest rate is from the bound
        rates = sorted(result["rates"], key=lambda rate: -rate["rate"])
    latency = rates[-1]["latency_ms"] if rates else {}
    return {
        "model": _model(result),
        "highest rate": _highest_rate(result, begun=bool(rates)),
        "at": f"{rates[-1]['rate']:.2f}/s" if rates else "-",
        **{
            f"{name} ms": f"{latency[name]:.1f}" if latency else "-"
            for name in ("median", "p90", "p99")
        },
    }


def _highest_rate(result: dict[str, Any], *, begun: bool) -> str:
    best, cut_off, alone = result["highest_rate"], result["search_cut_off"], result["alone_ms"]
    if alone is not None and alone > result["bound_ms"]:
        return f"none: alone a picture\ntakes {alone:.0f} ms,\nthe bound is {result['bound_ms']:g}"
    if best == 0:
        return f"none: p99 above\n{result['bound_ms']:g} ms at all rates"
    if best is not None:
        return f"{best:.2f}/s"
    if cut_off is None:
        return "not searched"
    if not begun:
        return "not begun"
    kept, missed = cut_off["kept"], cut_off["missed"]
    low = "" if kept is None else f"\nat least {kept:.2f}/s"
    high = "" if missed is None else f"\nbelow {missed:.2f}/s"
    return f"cut off{low}{high}"


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
