"""``ssd34 benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssd34.benchmark.report import FORMATS, draw_benchmark, make_report
from ssd34.benchmark.run import SCENARIOS, BenchmarkPlan, benchmark_with_loadgen
from ssd34.benchmark.run import benchmark as run_benchmark
from ssd34.cli import INTERRUPTED, PARTLY, console
from ssd34.errors import OptionError, require
from ssd34.files.atomic import written_whole
from ssd34.files.cache import load_matplotlib
from ssd34.files.lock import folder_locked
from ssd34.images.sources import find_pictures
from ssd34.machine import MAX_THREADS, thread_budget
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ENGINES
from ssd34.runtime.engine_choice import EXACT, require_engine
from ssd34.runtime.timing import OFFLINE, SINGLE_STREAM
from ssd34.text import counted
from ssd34.workflows.outputs import check_kinds, check_outputs

ROUNDS = {SINGLE_STREAM: 30, OFFLINE: 10}


def _now(option: str) -> str | None:
    """The simulated server is gone."""
    there = option in ("--rate", "--bound")
    return "use --loadgen DIR, or --scenario single-stream or offline" if there else None


@click.command(cls=console.renamed(_now), short_help="Measure how fast models run on this machine.")
@click.argument("models", type=console.MODEL, nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--threads", metavar="N,M",
    help="Thread counts for each model. [default: what this process may use]",
)  # fmt: skip
@click.option(
    "--engine", "engines", type=console.CompletedText(lambda: [*ENGINES, AUTO], files=False),
    default=DEFAULT_ENGINE, metavar="NAME,NAME",
    help=f"Engines for each model: {', '.join([*ENGINES, AUTO])}.",
)  # fmt: skip
@click.option(
    "--images", type=console.PATH, multiple=True, metavar="PATH",
    help="Pictures, as for detect; may be repeated. [default: one random picture]",
)  # fmt: skip
@click.option(
    "--scenario", type=click.Choice(SCENARIOS), default=SINGLE_STREAM,
    help="One picture after the other, or all at once.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1),
    help=f"Rounds. [default: {', '.join(f'{n} {name}' for name, n in ROUNDS.items())}]",
)  # fmt: skip
@click.option(
    "--warm-up", type=click.IntRange(0), default=3, help="Rounds that do not count. Not with "
    "LoadGen.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1),
    help="Offline: pictures in one run. [default: the file's own number, or one a thread]",
)  # fmt: skip
@click.option(
    "--loadgen", type=console.FOLDER, metavar="DIR",
    help="Let MLCommons LoadGen ask for pictures, and keep its logs in DIR.",
)  # fmt: skip
@click.option(
    "--seconds", type=console.NumberRange(0, 86400, min_open=True), default=60.0,
    help="LoadGen: shortest run of each model.",
)  # fmt: skip
@console.json_option
@click.option("--plot", type=console.FILE, help="Plot them: .png, .svg or .pdf.")
def benchmark(
    *,
    models: tuple[str, ...],
    threads: str | None,
    engines: str,
    images: tuple[str, ...],
    scenario: str,
    rounds: int | None,
    loadgen: Path | None,
    seconds: float,
    json_file: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Measure how fast models run on this machine, from JPEG bytes to detections.

    Models, engines and thread counts take turns in one run, A B A B, each in its own process. What
    slows the machine slows all of them. The others are compared with the first. Models that an
    engine cannot run are listed with the reason.

    Example: ssd34 benchmark float.onnx int8.onnx --images photos --threads 2
    """
    _check_scenario(scenario, loadgen=loadgen is not None)
    plan = BenchmarkPlan(
        models=models, engines=_engines(engines), threads=_thread_counts(threads),
        pictures=[picture.path for picture in find_pictures(images)], scenario=scenario,
        rounds=rounds or ROUNDS[scenario], **options,
    )  # fmt: skip
    check_kinds(models=models)
    check_outputs((console.file_of(json_file), plot), files=plan.pictures, models=models)
    if plot:
        _check_plot(plot, drawable=not loadgen)
    values = _with_loadgen(plan, loadgen, seconds) if loadgen else _measured(plan)
    if json_file != console.PRINTED:
        out = console.wide_console(110)
        out.print(describe_cpu(values["cpu"]), soft_wrap=True)
        out.print(table_of(values))
    console.emit_json(values, json_file)
    if plot:
        with written_whole(plot) as temporary:
            draw_benchmark(values, temporary, form=_form(plot))
    for model in dict.fromkeys(r["model"] for r in values["results"] if r["int8"] == EXACT):
        click.echo(
            f"{model}: its 8-bit weights need the exact way here, which is slower; weights of 7 "
            "bits do not: ssd34 quantize with reduce_range: true in its --config",
            err=True,
        )
    for reason in dict.fromkeys(refused["reason"] for refused in values["refused"]):
        console.warn(f"cannot run: {reason}")
    for choice in {r["choice"] for r in values["results"] if r.get("choice")}:
        click.echo(choice, err=True)
    if values["interrupted"]:
        console.warn("interrupted: only the rounds until then were measured")
        raise SystemExit(INTERRUPTED)
    never = {r["model"] for r in values["refused"]} - {r["model"] for r in values["results"]}
    if never:
        console.warn(f"not measured at all: {', '.join(sorted(never))}")
        raise SystemExit(PARTLY)


def _check_scenario(scenario: str, *, loadgen: bool) -> None:
    """Refuse what was given and would not count."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if given("batch") and (scenario != OFFLINE or loadgen):
        here = "--loadgen" if loadgen else f"--scenario {scenario}"
        raise OptionError(f"--batch counts in --scenario {OFFLINE} only, not in {here}")
    if given("warm_up") and loadgen:
        raise OptionError(
            "--warm-up does not count in --loadgen, which warms up by itself; leave it out"
        )
    if given("seconds") and not loadgen:
        raise OptionError("--seconds counts with --loadgen only; see --rounds")


def _check_plot(plot: Path, *, drawable: bool) -> None:
    """Fail before the work, not after it."""
    load_matplotlib(extra="plot", why="--plot")
    if not drawable:
        raise OptionError("--plot does not draw what LoadGen measures; leave it out")
    if _form(plot) not in FORMATS:
        raise OptionError(f"--plot {plot}: expected a name ending in {', '.join(FORMATS)}")


def _form(plot: Path) -> str:
    return plot.suffix.lower().removeprefix(".")


def _measured(plan: BenchmarkPlan) -> dict[str, Any]:
    with console.progress_bar() as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return make_report(run_benchmark(plan, progress=show))


def _with_loadgen(plan: BenchmarkPlan, folder: Path, seconds: float) -> dict[str, Any]:
    require("mlperf_loadgen", extra="loadgen", why="--loadgen")
    with folder_locked(folder), console.progress_bar() as bar:
        task = bar.add_task("LoadGen", total=None)
        return benchmark_with_loadgen(
            plan,
            folder,
            seconds=seconds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _engines(names: str) -> list[str]:
    engines = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in engines:
        if name not in (*ENGINES, AUTO):
            raise OptionError(
                f"--engine {names}: unknown engine {name!r}; expected {', '.join(ENGINES)} or "
                f"{AUTO}, separated by commas"
            )
        require_engine(name)
    return engines


def _thread_counts(counts: str | None) -> list[int]:
    if counts is None:
        return [thread_budget()]
    try:
        threads = [int(count) for count in dict.fromkeys(counts.split(","))]
    except ValueError:
        threads = []
    if not threads or not all(1 <= count <= MAX_THREADS for count in threads):
        raise OptionError(
            f"--threads {counts}: expected numbers from 1 to {MAX_THREADS}, such as 1,2"
        )
    return threads


Row = dict[str, str]
"""Cells by column; a cell may have several lines."""


def describe_cpu(cpu: dict[str, Any]) -> str:
    """One line about the processor."""
    features = cpu["features"]
    known = "unknown" if features is None else " ".join(n for n, has in features.items() if has)
    return (
        f"{cpu['model']}, {cpu['system']}; instructions: {known or 'none of the known'}; "
        f"{cpu['thread_budget']} of {counted(cpu['processors'], 'processor')} may be used"
    )


def table_of(values: dict[str, Any]) -> Table:
    """The results of one benchmark, a row for each model, engine and thread count."""
    offline = values["scenario"] == OFFLINE
    row_of = _loadgen if "loadgen" in values else _offline if offline else _single_stream
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


def _loadgen(result: dict[str, Any]) -> Row:
    found = result["loadgen"]
    single = found["settings"]["scenario"] == SINGLE_STREAM
    speed = found.get("QPS w/ loadgen overhead" if single else "Samples per second")
    row = {"model": _model(result), "samples/s": _or_dash(speed)}
    if single:
        latency = found.get("90.00 percentile latency (ns)")
        row["p90 ms"] = "-" if latency is None else f"{latency / 1e6:.1f}"
    return {**row, "LoadGen says": _or_dash(found.get("Result is"))}


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
