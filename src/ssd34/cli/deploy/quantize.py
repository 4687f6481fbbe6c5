"""``ssd34 quantize``."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ssd34.cli import console
from ssd34.cli.deploy.export import IN_GRAPH
from ssd34.errors import require
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs

if TYPE_CHECKING:
    from ssd34.deploy.search.gate import Trial
    from ssd34.workflows.quantize import Quantized, QuantizeListener

NOTHING_ACCEPTABLE = 4
FORMATS = {
    "qoperator": ("12-int8",),
    "qdq": ("12-qdq", "13-qdq"),
    "both": ("12-int8", "12-qdq", "13-qdq"),
}


FORMER = {
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
"""Former options, and the settings that took their place."""


def _now(option: str) -> str | None:
    setting = FORMER.get(option)
    return setting and f"write {setting} into a file and give it as --config FILE.yaml"


@click.command(
    cls=console.renamed(_now), short_help="Write an int8 file that is proven accurate and faster."
)
@click.argument("model", type=console.MODEL)
@click.option(
    "--data", type=console.PATH, required=True, metavar="PATH",
    help="Pictures and boxes to measure AP on.",
)  # fmt: skip
@console.coco_names_option
@click.option(
    "--limit", type=click.IntRange(1), metavar="N",
    help="Only the first N pictures of --data, those that calibrate included.",
)  # fmt: skip
@click.option("--output", required=True, type=console.FOLDER, metavar="DIR")
@click.option(
    "--config", type=console.NEW_FILE, metavar="FILE.yaml",
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
    "--calibration", type=console.PATH, metavar="PATH",
    help="A folder of pictures, or a data set, that the ranges come from. [default: every third "
    "picture of --data, which is then not measured on]",
)  # fmt: skip
@click.option(
    "--policy", type=click.Choice(IN_GRAPH),
    help="NMS policy of the files. ONNX cannot express the mlperf policies. [default: zoo, with "
    "the score threshold of MODEL's own NMS]",
)  # fmt: skip
@click.option("--max-trials", type=int, help="Most trials. [default: 20]")
@click.option("--timeout", type=float, metavar="SECONDS", help="Start no trial after this time.")
@click.option("--resume", is_flag=True, help="Continue with the trials in --output.")
@console.threads_option
@console.json_flag
def quantize(
    *,
    model: str,
    data: str,
    output: Path,
    config: Path | None,
    form: str | None,
    max_drop: float | None,
    min_speedup: float | None,
    calibration: str | None,
    max_trials: int | None,
    timeout: float | None,
    as_json: bool,
    **options: Any,
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
    require("msgspec", extra="quantize", why="quantization")
    from ssd34.deploy.search.config import QuantizeConfig, read_config
    from ssd34.workflows.quantize import NUMBERS, WRITTEN
    from ssd34.workflows.quantize import quantize as search

    settings = (read_config(config) if config else QuantizeConfig()).changed(
        {
            "calibration": {"data": calibration},
            "quantization": {"forms": FORMATS[form] if form else None},
            "criterion": {"max_drop": max_drop, "min_speedup": min_speedup},
            "search": {"max_trials": max_trials, "timeout": timeout},
        }
    )
    if config:
        check_outputs([output / name for name in WRITTEN], files=[config], made=(output,))
    with _screen() as screen:
        found = search(model, data, output, settings, listener=screen, **options)
    if as_json:
        console.emit_json(json.loads((output / NUMBERS).read_bytes()))
    else:
        _print(found)
    if not found.files:
        raise SystemExit(NOTHING_ACCEPTABLE)


def _screen() -> AbstractContextManager[QuantizeListener]:
    """Bars, trials and warnings on stderr."""
    from ssd34.cli.evaluate import EvaluateScreen
    from ssd34.workflows.quantize import QuantizeListener

    class TrialScreen(EvaluateScreen, QuantizeListener):
        def noted(self, message: str) -> None:
            console.say(message)

        def tried(self, trial: Trial) -> None:
            console.say(_line(trial))

        def interrupted(self, done: int, total: int, kept: Path | None) -> None:  # noqa: ARG002
            what = counted(done, "trial") if done else "the calibration"
            console.say(f"{what} kept in {kept}; continue with --resume")

    return TrialScreen()


def _how(trial: Trial) -> str:
    options = trial.options
    words: list[str] = [options.ranges]
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
        f"{trial.verdict}, {console.duration(trial.seconds)}"
    )


def _print(found: Quantized) -> None:
    out = Console(highlight=False, emoji=False)
    headings = ("file", "trial", "how", "AP", "drop", "ms", "speed-up", "low end", "verdict")
    table = console.plain_table(*headings)
    table.columns[2].overflow = "fold"
    for form, outcome in found.outcomes.items():
        for trial in outcome.trials:
            table.add_row(
                form, str(trial.number), _how(trial), f"{trial.ap:.4f}", f"{trial.drop:+.4f}",
                f"{trial.ms:.1f}", f"{trial.speedup.value:.2f}", f"{trial.speedup.low:.2f}",
                trial.verdict,
            )  # fmt: skip
    out.print(table)
    if found.seen is not None:
        out.print(f"{found.seen} of {counted(found.pictures, 'picture')} measured on were seen in "
                  "training", soft_wrap=True)  # fmt: skip
    for form, outcome in found.outcomes.items():
        if form in found.files:
            kept = "" if outcome.accepted else "kept from before, as it passes the gate; now "
            out.print(f"{found.files[form]}: {kept}{outcome.reason}", soft_wrap=True, markup=False)
        else:
            best = ""
            if outcome.best:
                of = " of the fast enough" if outcome.best.fast else ""
                eased = " ".join(
                    f"--{name.replace('_', '-')} {value:.6g}"
                    for name, value in outcome.best.passes_with.items()
                )
                best = f"; most accurate{of}: trial {outcome.best.number}"
                best += f", which passes with --resume {eased}" if eased else ""
            out.print(f"{form}: nothing written: {outcome.reason}{best}", soft_wrap=True,
                      markup=False)  # fmt: skip
