"""``ssd34 detect``."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

from ssd34.cli import PARTLY, console
from ssd34.cli.video import (
    JSONL,
    VideoOptions,
    detect_video,
    refuse_as_text,
    refuse_for_pictures,
)
from ssd34.core.postprocess import ZOO
from ssd34.errors import OptionError
from ssd34.images.sources import find_pictures
from ssd34.runtime.detector import Detector
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.runtime.session import Session
from ssd34.text import counted
from ssd34.video.source import find_video
from ssd34.workflows.detect import (
    FORMATS,
    as_text,
    choose_label_files,
    choose_saved,
    detect_pictures,
    write_run,
)
from ssd34.workflows.outputs import check_kinds, check_outputs


@click.command(short_help="Find objects in pictures, films and streams.")
@click.argument("sources", type=console.PATH, nargs=-1, required=True, metavar="SOURCE...")
@console.model_option
@console.score_option
@console.policy_option
@console.classes_option
@click.option(
    "--save", type=console.FILE, metavar="DIR",
    help="Write the pictures, or the film, with their boxes into DIR. A picture alone may have a "
    "name such as boxes.jpg instead, a film one that ends in .mp4, .m4v, .mov or .mkv.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice([*FORMATS, JSONL]),
    help="Form of the result. [default: json or csv where --output ends so, else table; of a film "
    "jsonl, a line for each frame]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--output", type=console.FILE, metavar="FILE",
    help="Write to FILE instead of printing. With --format yolo it is a folder with one .txt a "
    "picture.",
)  # fmt: skip
@console.preprocess_option
@console.threads_option
@console.engine_option
@console.max_pixels_option
@click.option(
    "--every", type=click.IntRange(1), metavar="N", help="Only every N-th frame of a film."
)
@click.option("--track", is_flag=True, help="Number the objects of a film, and follow them.")
@click.option(
    "--reconnect", type=click.IntRange(0, 100), metavar="N",
    help="Connections that are tried in a row when a stream breaks. [default: 6]",
)  # fmt: skip
def detect(
    *,
    sources: tuple[str, ...],
    model: str,
    score: float,
    policy: str | None,
    classes: tuple[str, ...],
    save: Path | None,
    form: str | None,
    as_json: bool,
    output: Path | None,
    preprocessing: str,
    threads: int | None,
    engine: str | None,
    max_pixels: int,
    every: int | None,
    track: bool,
    reconnect: int | None,
) -> None:
    """Find objects in pictures, films and streams.

    SOURCE is a picture, its address (https://...), a folder (with its folders) or a quoted pattern
    such as 'shots/*.jpg'; or one film, the address of a stream (rtsp://...), or the number of a
    camera. An unreadable picture is reported, the others are done, and the exit code is 1. If none
    can be read, the exit code is 2 and nothing is written.

    Example: ssd34 detect photos --save out
    """
    if as_json and form not in (None, "json", JSONL):
        raise OptionError(f"--json: got --format {form}, too; leave one of them out")
    asked = VideoOptions(
        model=model, score=score, classes=classes, save=save, form=form, output=output,
        every=every, track=track, reconnect=reconnect, max_pixels=max_pixels,
    )  # fmt: skip

    def load() -> Detector:
        detector = Detector.load(
            model, threads=threads, policy=policy, engine=engine or DEFAULT_ENGINE,
            preprocessing=preprocessing,
        )  # fmt: skip
        console.say_choice(detector.session)
        if click.get_current_context().get_parameter_source("score") is ParameterSource.COMMANDLINE:
            _warn_of_own_threshold(detector.session, score)
        return detector

    if (video := find_video(sources)) is not None:
        detect_video(video, load, replace(asked, form=JSONL) if as_json else asked)
        return
    refuse_for_pictures(asked)
    form = "json" if as_json else form
    pictures = find_pictures(sources, urls=True)
    ending = output.suffix.lower() if output else ""
    if form is None:
        form = ending[1:] if ending in (".json", ".csv") else "table"
    saved = choose_saved(pictures, save) if save else {}
    if form == "yolo" and output and output.exists() and not output.is_dir():
        raise OptionError(f"--output {output}: is a file; --format yolo writes a folder")
    label_files = choose_label_files(pictures, output) if output and form == "yolo" else {}
    check_kinds(models=(model,))
    check_outputs(
        [*saved.values(), *(label_files.values() if label_files else (output,))],
        files=[picture.path for picture in pictures if not picture.url], models=(model,),
        made=(save, output if form == "yolo" else None),
    )  # fmt: skip
    refuse_as_text(output)
    detector = load()
    wanted = [detector.labels.label(name) for name in classes]

    began = time.monotonic()
    with console.progress_bar() as bar:
        run = detect_pictures(
            pictures, detector, model=model, score=score, wanted=wanted, max_pixels=max_pixels,
            saved=saved, skipped=lambda error: console.say(f"skipped: {error}"),
            progress=console.count_on(bar, "detecting", len(pictures)),
        )  # fmt: skip
    if output:
        write_run(run, form, output, label_files)
        console.say_done(len(pictures), "picture", time.monotonic() - began, output)
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        click.echo(as_text(run, form, width=width), nl=False)
    if not any(len(looked.detections) for looked in run.looked):
        console.say(f"nothing scores {score:g} or more; a lower --score shows what is less sure")
    if save:
        saved_now = counted(len(run.looked) - run.unsaved, "picture")
        click.echo(f"saved {saved_now} in {save}", err=True)
    if run.failed:
        console.warn(f"{len(run.failed)} of {counted(len(pictures), 'picture')} could not be read")
    if run.failed or run.unsaved:
        sys.exit(PARTLY)


def _warn_of_own_threshold(session: Session, score: float) -> None:
    """Warn where the NMS in the file leaves out more than --score does."""
    if session.raw:
        return
    try:
        from ssd34.deploy.graph.onnx_file import read_model
        from ssd34.deploy.graph.tail import read_tail_policy
    except ModuleNotFoundError:  # a base install: most files have the published threshold
        own = ZOO.score_threshold
    else:
        own = read_tail_policy(read_model(session.path).graph).score_threshold
    if np.float32(score) < np.float32(own):
        console.warn(
            f"--score {score:g}: {session.path.name} leaves out detections below {own:.4g} "
            "itself; make another file with ssd34 export --score or --tail none"
        )
