"""``ssd34 quantize``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ssd34.cli.console import duration, ends_as_interrupted, errors, progress_bar, warn
from ssd34.cli.data.group import opened, warn_of_unknown_classes
from ssd34.core.postprocess import POLICIES, named_policy
from ssd34.errors import MissingExtraError, OptionError, require
from ssd34.files.lock import folder_locked
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs

if TYPE_CHECKING:
    from ssd34.datasets.dataset import Dataset
    from ssd34.deploy.search.bench import Watcher
    from ssd34.deploy.search.config import QuantizeConfig
    from ssd34.deploy.search.gate import Trial
    from ssd34.deploy.search.log import TrialLog
    from ssd34.deploy.search.search import Outcome

NOTHING_ACCEPTABLE = 4
FORMATS = {
    "qoperator": ("12-int8",),
    "qdq": ("12-qdq", "13-qdq"),
    "both": ("12-int8", "12-qdq", "13-qdq"),
}
WRITTEN = ("quantize.json", "trials.jsonl", "layers.json", "calibration.npz", "trials.png")
"""What lies in the folder beside the int8 files and their proofs."""

IN_GRAPH = [name for name, policy in POLICIES.items() if policy.in_graph]


SETTINGS = {
    "--drop": "criterion.drop",
    "--pictures": "calibration.pictures",
    "--ranges": "quantization.ranges",
    "--reduce-range": "quantization.reduce_range",
    "--full-range": "quantization.reduce_range",
    "--float-node": "quantization.float_nodes",
    "--input": "quantization.image_input",
    "--rounds": "rounds",
    "--exit": "search.exit",
}
"""Former options, and the settings of the configuration that took their place."""


class QuantizeCommand(click.Command):
    """A command whose former options name the settings that took their place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; args: what follows the command's name."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            setting = SETTINGS.get(error.option_name)
            if setting is None:
                raise
            raise OptionError(
                f"{error.option_name} is a setting now: write {setting} into a file and give it "
                "as --config FILE.yaml"
            ) from None


@click.command(
    cls=QuantizeCommand, short_help="Write an int8 file that is proven accurate and faster."
)
@click.argument("model")
@click.option("--data", required=True, metavar="PATH", help="Pictures and boxes to measure AP on.")
@click.option("--coco-names", is_flag=True, help="Use COCO's names for VOC's classes.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N",
    help="Only the first N pictures of --data, those that calibrate included.",
)  # fmt: skip
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR"
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml",
    help="All settings. Options of the command line override them.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)),
    help="qoperator: STEM-12-int8.onnx; qdq: STEM-12-qdq.onnx and STEM-13-qdq.onnx; both: "
    "all three. [default: qoperator]",
)  # fmt: skip
@click.option("--max-drop", type=float, help="Largest loss of AP. [default: 0.003]")
@click.option("--min-speedup", type=float, help="Smallest speed-up. [default: 1.5]")
@click.option(
    "--calibration", metavar="PATH",
    help="A folder of pictures, or a data set, that the ranges come from. [default: every third "
    "picture of --data, which is then not measured on]",
)  # fmt: skip
@click.option(
    "--policy", "policy_name", type=click.Choice(IN_GRAPH), default="zoo",
    help="NMS policy of the files. ONNX cannot express the mlperf policies.",
)  # fmt: skip
@click.option("--max-trials", type=int, help="Most trials. [default: 20]")
@click.option("--timeout", type=float, metavar="SECONDS", help="Start no trial after this time.")
@click.option("--resume", is_flag=True, help="Continue with the trials in --output.")
@click.option(
    "--threads", type=click.IntRange(1), help="Threads. [default: what this process may use]"
)
def quantize(
    *,
    model: str,
    data: str,
    coco_names: bool,
    limit: int | None,
    output: Path,
    config: Path | None,
    form: str | None,
    max_drop: float | None,
    min_speedup: float | None,
    calibration: str | None,
    policy_name: str,
    max_trials: int | None,
    timeout: float | None,
    resume: bool,
    threads: int | None,
) -> None:
    """Quantize MODEL to int8, and write the file only if it is proven accurate and faster.

    MODEL is a float ONNX file of this family, a checkpoint (.safetensors) or the name of a model.
    Every trial is a whole int8 file, measured against the float file: AP on the same pictures,
    time in turns. If no way of finding ranges is accurate enough, the fewest layers that suffice
    return to float, first those that lose most per millisecond.

    Exit code 4: no int8 file passed the gate, and none was written.

    Example: ssd34 quantize mine.safetensors --data val.zip --output int8
    """
    require("onnx", extra="quantize", why="quantization")
    require("hotcoco", extra="quantize", why="the measurement of AP")
    from ssd34.deploy.search.config import QuantizeConfig, read_config

    settings = (read_config(config) if config else QuantizeConfig()).changed(
        {
            "calibration": {"data": calibration},
            "quantization": {"forms": FORMATS[form] if form else None},
            "criterion": {"max_drop": max_drop, "min_speedup": min_speedup},
            "search": {"max_trials": max_trials, "timeout": timeout},
        }
    )
    if output.is_file():
        raise OptionError(f"{output}: is a file; expected a folder to write into")
    check_outputs(
        [output / name for name in WRITTEN],
        files=[config] if config else (), models=(model,), data=(data,), made=(output,),
    )  # fmt: skip
    click.get_current_context().with_resource(folder_locked(output))
    dataset = opened(data, coco_names=coco_names)
    accepted = _run(
        model,
        dataclasses.replace(dataset, samples=dataset.samples[:limit]),
        output,
        settings,
        policy_name=policy_name,
        resume=resume,
        threads=threads,
    )
    if not accepted:
        raise SystemExit(NOTHING_ACCEPTABLE)


def _run(
    model: str,
    dataset: Dataset,
    output: Path,
    settings: QuantizeConfig,
    *,
    policy_name: str,
    resume: bool,
    threads: int | None,
) -> bool:
    """Everything; returns whether a file was accepted."""
    from ssd34.deploy.int8.plan import check_ranges
    from ssd34.deploy.search.bench import Bench, FileOptions
    from ssd34.deploy.search.log import LayerLog, TrialLog
    from ssd34.deploy.search.pictures import from_path, split
    from ssd34.evaluate.metrics.coco import categories_of
    from ssd34.workflows.quantize import (
        calibrated,
        network_from,
        publish,
        search_forms,
        subject_of,
    )

    stem, network = network_from(model)
    in_float = network.resolve_names(settings.quantization.float_nodes)
    settings = settings.changed({"quantization": {"float_nodes": in_float or None}})
    check_ranges(network, settings.quantization.ranges)
    categories_of(network.labels, dataset)  # no class in common: better said before the work
    warn_of_unknown_classes(dataset, network.labels)
    wanted = settings.calibration.pictures
    own = settings.calibration.data
    if own is None:
        calibrating, measured = split(dataset, pictures=wanted)
    else:
        calibrating = from_path(own, pictures=wanted)
        measured = dataset
    if settings.quantization.reduce_range is None and settings.quantization.narrow_weights:
        errors.print("weights get 7 bits, as 8 would need a slower way on this processor, which "
                     "has no VNNI; for 8 set quantization.reduce_range to false in --config",
                     soft_wrap=True)  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    subject = subject_of(
        network, measured, calibrating, settings, policy=policy_name, threads=threads
    )
    log = TrialLog(
        output / "trials.jsonl", subject=subject, criterion=settings.criterion, resume=resume
    )
    shared = subject["calibration_pictures_measured"]
    if shared:
        warn(
            f"{shared} of the {len(calibrating)} calibration pictures "
            f"{'is' if shared == 1 else 'are'} also measured on; the "
            "int8 files may look better than they are"
        )
    with ends_as_interrupted(), _bars() as (bar, watcher):
        statistics = calibrated(
            network,
            calibrating,
            output / "calibration.npz",
            source=subject["calibration_sha256"],
            reuse=resume,
            threads=threads,
            progress=lambda done: bar("calibrating", done, len(calibrating)),
            problem=lambda p: warn(f"{calibrating.name}: left out {p}"),
        )
        files = FileOptions(
            policy=named_policy(policy_name), image_input=settings.quantization.image_input
        )
        with (
            _telling_what_is_kept(log, output),
            Bench(
                network,
                statistics,
                measured,
                file_options=files,
                rounds=settings.rounds,
                threads=threads,
                watcher=watcher,
            ) as bench,
        ):
            outcomes = search_forms(
                bench,
                settings,
                trained=bool(network.trained),
                log=log,
                layers=LayerLog(output / "layers.json", subject=subject, resume=resume),
                finished=lambda trial: errors.print(_line(trial), markup=False, soft_wrap=True),
            )
            # Unreadable pictures were planned with, but did not calibrate.
            proven = {**subject, "calibration_pictures": statistics.pictures}
            published = publish(
                bench,
                outcomes,
                output,
                stem=stem,
                subject=proven,
                settings=settings,
                earlier=log.earlier,
            )
    for path, trial in published.removed.items():
        warn(f"{path}: removed with its proof: trial {trial.number} now {trial.verdict}")
    _print(outcomes, published.files)
    trials = list(dict.fromkeys(t for outcome in outcomes.values() for t in outcome.trials))
    _plot(trials, output / "trials.png", settings, title=f"{stem} on {measured.name}")
    return bool(published.files)


@contextmanager
def _telling_what_is_kept(log: TrialLog, output: Path) -> Iterator[None]:
    """On an interruption after the calibration say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        what = counted(log.count, "trial") if log.count else "the calibration"
        errors.print(f"{what} kept in {output}; go on with --resume", markup=False,
                     soft_wrap=True)  # fmt: skip
        raise


@contextmanager
def _bars() -> Iterator[tuple[Any, Watcher]]:
    """One progress bar for whatever is going on, and the listener that moves it."""
    from ssd34.deploy.search.bench import Watcher

    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def move(name: str, done: int, total: int) -> None:
            if name not in tasks or done <= 1:
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield (
            move,
            Watcher(
                evaluating=lambda done, total: move("measuring AP", done, total),
                timing=lambda done, total: move("timing", done, total),
                ranking=lambda done, total: move("ranking layers", done, total),
                unreadable=lambda problem: warn(f"counts as missed: {problem}"),
            ),
        )


def _how(trial: Trial) -> str:
    options = trial.options
    words = [options.ranges]
    if options.reduce_range:
        words.append("7 bits")
    if options.float_nodes:
        words.append(f"{len(options.float_nodes)} in float")
    return ", ".join(words)


def _line(trial: Trial) -> str:
    options = trial.options
    return (
        f"trial {trial.number}: {options.form} opset {options.opset}, {_how(trial)}: "
        f"AP {trial.ap:.4f} of {trial.float_ap:.4f} (drop {trial.drop:+.4f}), "
        f"{trial.ms:.1f} of {trial.float_ms:.1f} ms ({trial.speedup.value:.2f}x), "
        f"{trial.verdict}, {duration(trial.seconds)}"
    )


def _print(outcomes: dict[str, Outcome], published: dict[str, Path]) -> None:
    out = Console(highlight=False, emoji=False)
    headings = ("file", "trial", "how", "AP", "drop", "ms", "speed-up", "low end", "verdict")
    table = Table(*headings, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[2].overflow = "fold"
    for form, outcome in outcomes.items():
        for trial in outcome.trials:
            table.add_row(
                form,
                str(trial.number),
                _how(trial),
                f"{trial.ap:.4f}",
                f"{trial.drop:+.4f}",
                f"{trial.ms:.1f}",
                f"{trial.speedup.value:.2f}",
                f"{trial.speedup.low:.2f}",
                trial.verdict,
            )
    out.print(table)
    for form, outcome in outcomes.items():
        if form in published:
            kept = "" if outcome.accepted else "kept from before, as it passes the gate; now "
            out.print(f"{published[form]}: {kept}{outcome.reason}", soft_wrap=True, markup=False)
        else:
            best = ""
            if outcome.best:
                of = " of the fast enough" if outcome.best.fast else ""
                best = f"; most accurate{of}: trial {outcome.best.number}"
            out.print(f"{form}: nothing published: {outcome.reason}{best}", soft_wrap=True,
                      markup=False)  # fmt: skip


def _plot(trials: list[Trial], path: Path, settings: QuantizeConfig, *, title: str) -> None:
    from ssd34.deploy.search.plot import plot_trials

    if not trials:
        return
    try:
        plot_trials(trials, path, criterion=settings.criterion, title=title)
    except MissingExtraError as error:
        warn(str(error))
