"""``ssd34 data label``."""

from __future__ import annotations

from pathlib import Path

import click

from ssd34.cli import PARTLY, console
from ssd34.cli.data.convert import print_splits, warn_of_changes
from ssd34.datasets.convert.convert import FORMATS, Options, convert
from ssd34.errors import OptionError
from ssd34.images.sources import find_pictures
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.workflows.outputs import check_outputs


@click.command(short_help="Annotate pictures with a model's detections.")
@click.argument("sources", type=console.PATH, nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--model", type=console.MODEL, help="An ONNX file, or the name of a model. [default: default]"
)
@click.option(
    "--detections", type=console.FILE, metavar="FILE",
    help="Take another detector's: COCO's results JSON, instead of --model.",
)  # fmt: skip
@click.option(
    "--output", type=console.FILE, required=True, metavar="DIR",
    help="A new folder for the data set.",
)  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="coco", help="Its format.")
@click.option(
    "--score", type=click.FloatRange(0, 1), default=DEFAULT_SCORE,
    help="Detections that score so much become objects.",
)  # fmt: skip
@click.option(
    "--uncertain", type=click.FloatRange(0, 1), metavar="SCORE",
    help="Those from here to --score become difficult: neither object nor background for training. "
    "[default: they are left out]",
)  # fmt: skip
@console.threads_option
@console.engine_option
@console.json_option
def label(
    *,
    sources: tuple[str, ...],
    model: str | None,
    detections: Path | None,
    output: Path,
    form: str,
    score: float,
    uncertain: float | None,
    threads: int | None,
    engine: str | None,
    json_file: Path | None,
) -> None:
    """Make a data set of pictures that nobody has annotated, with the detections of a model.

    SOURCE is as for detect. Correct the result in a labelling tool, or train on it: a stronger
    detector's findings can teach this one.

    Example: ssd34 data label photos --output photos-labelled --uncertain 0.2
    """
    from ssd34.runtime.engine import DEFAULT_ENGINE
    from ssd34.workflows.label import Labelling, label_with_model, label_with_results

    if detections is not None and (model, threads, engine) != (None, None, None):
        raise OptionError("--detections: no model runs; leave out --model, --engine and --threads")
    how = Labelling(score=score, uncertain=uncertain)
    pictures = find_pictures(sources)
    read = [picture.path for picture in pictures] + ([detections] if detections else [])
    check_outputs((console.file_of(json_file),), files=read, models=(model or "default",))
    with console.progress_bar() as bar:
        if detections is not None:
            dataset = label_with_results(pictures, detections, how)
        else:
            detector = Detector.load(
                model or "default", threads=threads, engine=engine or DEFAULT_ENGINE
            )
            console.say_choice(detector.session)
            looked = console.count_on(bar, "detecting", len(pictures))
            dataset = label_with_model(pictures, detector, how, progress=looked)
        written = console.count_on(bar, "writing", len(dataset))
        done = convert([("", dataset)], output, Options(form), progress=written)
    for problem in dataset.problems:
        console.warn(f"left out {problem}")
    warn_of_changes(done)
    sure = sum(int((~one.difficult).sum()) for one in dataset.samples)
    unsure = sum(len(s.boxes) for s in dataset.samples) - sure
    if json_file != console.PRINTED:
        print_splits(done, output)
        click.echo(f"{sure} objects, {unsure} uncertain")
    values = {"destination": str(output), **done.to_dict()}
    values["left_out"] = [str(one) for one in dataset.problems] + values["left_out"]
    console.emit_json({**values, "objects": sure, "uncertain": unsure}, json_file)
    if dataset.problems or done.problems:
        raise SystemExit(PARTLY)
