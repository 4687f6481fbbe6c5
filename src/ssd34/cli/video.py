"""``ssd34 detect`` of a film, a stream or a camera."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from ssd34.cli import PARTLY
from ssd34.cli.console import progress_bar, say, say_done, warn
from ssd34.errors import OptionError, VideoError
from ssd34.files.atomic import written_whole
from ssd34.images.draw import draw
from ssd34.images.read import SUFFIXES, LargeImageError
from ssd34.runtime.detector import Detector
from ssd34.text import counted
from ssd34.video.feed import Feed, Patience
from ssd34.video.film import Sound
from ssd34.video.look import Follower, SeenFrame, look_at
from ssd34.video.source import FILMS, VideoSource
from ssd34.video.write import WRITTEN, FilmWriter, choose_target, film_written
from ssd34.workflows.outputs import check_kinds, check_outputs

JSONL = "jsonl"


@dataclass(frozen=True)
class VideoOptions:
    """What ``detect`` was asked for; see its options."""

    model: str
    score: float
    classes: tuple[str, ...]
    save: Path | None
    form: str | None
    output: Path | None
    every: int | None
    track: bool
    reconnect: int | None
    max_pixels: int


def refuse_for_pictures(options: VideoOptions) -> None:
    """OptionError for what only films, streams and cameras have."""
    for given, name in (
        (options.every, "--every"), (options.track, "--track"),
        (options.reconnect is not None, "--reconnect"), (options.form == JSONL, "--format jsonl"),
    ):  # fmt: skip
        if given:
            raise OptionError(f"{name}: is for a film, a stream or a camera; leave it out")
    save = options.save
    if save is not None and save.suffix.lower() in FILMS and not save.is_dir():
        raise OptionError(f"--save {save}: the name of a film; expected a folder for the pictures")


def refuse_as_text(output: Path | None) -> None:
    """OptionError for a picture's or a film's name for what is text."""
    if output is not None and output.suffix.lower() in SUFFIXES | FILMS:
        raise OptionError(
            f"--output {output}: would hold text; pictures and films with their boxes: --save"
        )


def detect_video(source: VideoSource, load: Callable[[], Detector], options: VideoOptions) -> None:
    """Find objects in every frame, write them as JSON lines, and write the film with its boxes. The
    detector is loaded once the source is open."""
    if options.form not in (None, JSONL):
        raise OptionError(
            f"--format {options.form}: is for pictures; a film gives {JSONL}, a line for each frame"
        )
    feed = _open(source, options)
    target = choose_target(options.save, feed.film) if options.save else None
    check_kinds(models=(options.model,))
    check_outputs(
        [options.output, target],
        files=[source.path] if source.path else (),
        models=(options.model,),
        made=(target.parent if target and target != options.save else None,),
    )
    refuse_as_text(options.output)
    if options.track:
        Follower(score=options.score)  # before the work: is the tracker installed?
    detector = load()
    wanted = [detector.labels.label(name) for name in options.classes]
    printed = options.output is None and (target is None or options.form == JSONL)
    frames, began = 0, time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals(feed))
        line = stack.enter_context(_lines(options.output, printed=printed))
        writer = stack.enter_context(film_written(target, feed.film)) if target else None
        bar = progress_bar()
        bar.disable |= printed and sys.stdout.isatty()
        stack.enter_context(bar)
        total = feed.film.frames
        task = bar.add_task("detecting", total=total and -(-total // feed.every))
        stack.enter_context(feed)
        for item in look_at(
            feed, detector, score=options.score, wanted=wanted, track=options.track
        ):
            if isinstance(item, Sound):
                if writer:
                    writer.write_sound(item)
                continue
            line(json.dumps(item.to_dict()))
            if writer:
                _draw(writer, item)
            frames += 1
            skipped = f", {feed.skipped} skipped" if feed.skipped else ""
            bar.update(task, advance=1, description=f"detecting{skipped}")
        if not frames:  # of a live source, which was ended or broke before the first one
            if not feed.lost:
                raise KeyboardInterrupt
            raise VideoError(f"{source.name}: no frame came ({feed.lost}); check the source")
    if options.output:
        say_done(frames, "frame", time.monotonic() - began, options.output)
    _report(feed, frames, target, writer)


def _open(source: VideoSource, options: VideoOptions) -> Feed:
    patience = Patience() if options.reconnect is None else Patience(tries=options.reconnect)
    try:
        return Feed(
            source, every=options.every or 1, max_pixels=options.max_pixels, patience=patience,
            say=say,
        )  # fmt: skip
    except LargeImageError as error:
        raise LargeImageError(f"{error}, or raise the limit with --max-pixels") from None


def _draw(writer: FilmWriter, look: SeenFrame) -> None:
    drawn = draw(look.pixels, look.found, tracks=look.tracks)
    writer.write(drawn, look.frame.time, aspect=look.frame.aspect)


@contextmanager
def _lines(output: Path | None, *, printed: bool) -> Iterator[Callable[[str], object]]:
    """Where lines go: to a file that is whole or not there, to standard output, or nowhere."""
    if output is None:
        yield click.echo if printed else (lambda _: None)
        return
    with written_whole(output) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(line: str) -> None:
            file.write(f"{line}\n")
            file.flush()

        yield write


@contextmanager
def _ended_by_signals(feed: Feed) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM end a live source, which has no other end: what came
    until then is kept. A film is interrupted, and leaves nothing."""
    if not feed.live:
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)  # the second time at once
        feed.stop()

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _report(feed: Feed, frames: int, target: Path | None, writer: FilmWriter | None) -> None:
    """What came of it, on stderr; exits with `PARTLY` where something of it is missing."""
    name = feed.source.name
    if writer and target:
        for kind in writer.silent:
            others = ", ".join(ending for ending in WRITTEN if ending != target.suffix.lower())
            warn(f"sound ({kind}) is left out: {target.name} cannot hold it; try one of {others}")
        click.echo(f"saved {counted(frames, 'frame')} in {target}", err=True)
    if feed.live:
        skipped = f", {feed.skipped} skipped to keep pace" if feed.skipped else ""
        click.echo(f"{name}: looked at {counted(frames, 'frame')}{skipped}", err=True)
    if feed.broken:
        warn(f"{name}: {counted(feed.broken, 'damaged frame')}")
    if feed.lost:
        lost = f"gave the stream up ({feed.lost})" if feed.live else f"broke off at {feed.lost}"
        warn(f"{name}: {lost}; what came until then is kept")
    if feed.lost or (feed.broken and not feed.live):
        sys.exit(PARTLY)
