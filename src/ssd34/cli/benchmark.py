"""``ssd34 benchmark``."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from ssd34.cli.benchmark_table import cpu_line, table_of
from ssd34.cli.console import progress_bar, warn
from ssd34.cli.exit_codes import INTERRUPTED, PARTLY
from ssd34.data.atomic import write_text, written_whole
from ssd34.data.lock import folder_locked
from ssd34.errors import OptionError, require
from ssd34.machine import thread_budget
from ssd34.runtime.benchmark_plot import FORMATS, draw_benchmark
from ssd34.runtime.benchmark_report import report_values
from ssd34.runtime.benchmark_run import (
    OFFLINE,
    SCENARIOS,
    SINGLE_STREAM,
    Plan,
)
from ssd34.runtime.benchmark_run import (
    benchmark as run_benchmark,
)
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ENGINES, OPENVINO
from ssd34.runtime.engine_choice import EXACT
from ssd34.runtime.loadgen_run import loadgen_values
from ssd34.runtime.sources import find_pictures
from ssd34.workflows.outputs import check_outputs
from ssd34.zoo.cache import load_matplotlib

ROUNDS = {SINGLE_STREAM: 30, OFFLINE: 10}


def _refuse_removed(_: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise OptionError(
            f"{' and '.join(option.opts)} belonged to the simulated server, which is gone; use "
            f"--scenario {' or '.join(SCENARIOS)}, or --loadgen"
        )


@click.command(short_help="Measure how fast models run here.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--threads", metavar="N,M",
    help="Run each model with each of these. [default: what this process may use]",
)  # fmt: skip
@click.option(
    "--engine", "engines", default=DEFAULT_ENGINE, metavar="NAME,NAME",
    help=f"Run each model with each of these: {', '.join([*ENGINES, AUTO])}.",
)  # fmt: skip
@click.option(
    "--images", multiple=True, metavar="PATH",
    help="Pictures, as for detect. [default: one that is drawn]",
)  # fmt: skip
@click.option("--scenario", type=click.Choice(SCENARIOS), default=SINGLE_STREAM)
@click.option(
    "--rounds", type=click.IntRange(1),
    help=f"[default: {', '.join(f'{n} {name}' for name, n in ROUNDS.items())}]",
)  # fmt: skip
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=3,
    help="Rounds that do not count; not with LoadGen.",
)
@click.option(
    "--batch", type=click.IntRange(1),
    help="Offline: pictures in one run. [default: the file's own number, or one a thread]",
)  # fmt: skip
@click.option("--rate", "--bound", hidden=True, expose_value=False, callback=_refuse_removed)
@click.option(
    "--loadgen", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Let MLCommons LoadGen ask instead; its logs stay in DIR.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=60.0,
    help="LoadGen: shortest run of each model.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all numbers.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them: .png, .svg or .pdf.")
def benchmark(
    *,
    models: tuple[str, ...],
    threads: str | None,
    engines: str,
    images: tuple[str, ...],
    scenario: str,
    rounds: int | None,
    warm_up: int,
    batch: int | None,
    loadgen: Path | None,
    seconds: float,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure how fast models run on this machine, from JPEG bytes to detections.

    Models, engines and thread counts take turns in one run, A B A B, each in its own process; what
    slows the machine slows them all. The first is what the others are compared with. What an engine
    cannot run here is left out and named.
    """
    _check_scenario(scenario, loadgen=loadgen is not None)
    plan = Plan(
        models=models,
        engines=_engines(engines),
        threads=_thread_counts(threads),
        pictures=[picture.path for picture in find_pictures(images)],
        scenario=scenario,
        rounds=rounds or ROUNDS[scenario],
        warm_up=warm_up,
        batch=batch,
    )
    check_outputs((json_file, plot), files=plan.pictures, models=models)
    if plot:
        _check_plot(plot, drawable=not loadgen)
    if not math.isfinite(seconds):
        raise OptionError(f"--seconds {seconds}: expected a number above 0")
    values = _with_loadgen(plan, loadgen, seconds) if loadgen else _measured(plan)
    console = Console(
        highlight=False, emoji=False, width=shutil.get_terminal_size((110, 24)).columns
    )
    console.print(cpu_line(values["cpu"]), markup=False, soft_wrap=True)
    console.print(table_of(values))
    if json_file:
        write_text(json_file, json.dumps(values, indent=1) + "\n")
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
        warn(f"cannot run: {reason}")
    for choice in {r["choice"] for r in values["results"] if r.get("choice")}:
        click.echo(choice, err=True)
    if values["interrupted"]:
        warn("interrupted: only the rounds until then were measured")
        raise SystemExit(INTERRUPTED)
    never = {r["model"] for r in values["refused"]} - {r["model"] for r in values["results"]}
    if never:
        warn(f"not measured at all: {', '.join(sorted(never))}")
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


def _measured(plan: Plan) -> dict[str, Any]:
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return report_values(run_benchmark(plan, progress=show))


def _with_loadgen(plan: Plan, folder: Path, seconds: float) -> dict[str, Any]:
    require("mlperf_loadgen", extra="loadgen", why="--loadgen")
    with folder_locked(folder), progress_bar() as bar:
        task = bar.add_task("LoadGen", total=None)
        return loadgen_values(
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
        if name == OPENVINO:
            from ssd34.runtime.libraries import load_openvino

            load_openvino()
    return engines


def _thread_counts(counts: str | None) -> list[int]:
    if counts is None:
        return [thread_budget()]
    try:
        threads = [int(count) for count in dict.fromkeys(counts.split(","))]
    except ValueError:
        threads = []
    if not threads or not all(1 <= count <= 1024 for count in threads):
        raise OptionError(f"--threads {counts}: expected numbers from 1 to 1024, such as 1,2")
    return threads
