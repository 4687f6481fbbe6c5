"""What the commands share in printing: progress goes to stderr, results to stdout."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ssd34.core.postprocess import POLICIES
from ssd34.core.preprocess import CARD, PREPROCESSINGS
from ssd34.datasets.dataset import Dataset
from ssd34.errors import OptionError
from ssd34.files.atomic import is_special, write_json
from ssd34.images.read import MAX_PIXELS
from ssd34.machine import MAX_THREADS
from ssd34.runtime.detector import DEFAULT_SCORE
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ENGINES
from ssd34.runtime.session import Session
from ssd34.text import counted
from ssd34.zoo.names import EMBEDDED, PUBLISHED

SHOWN_PROBLEMS = 5
PRINT_SECONDS = 30

errors = Console(stderr=True, highlight=False, emoji=False)


def renamed(now: Callable[[str], str | None]) -> type[click.Command]:
    """The kind of a command that says what stands in for an option that it had once: `now` gives
    what to write instead of an option such as ``--freeze``; None: it never was one."""

    class Renamed(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            try:
                return super().parse_args(ctx, args)
            except click.NoSuchOption as error:
                if (instead := now(error.option_name)) is None:
                    raise
                raise OptionError(f"{error.option_name} is gone; {instead}") from None

    return Renamed


def _refuse_empty(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> None:
    """Refuse what a variable that is not set leaves: as a path it would be the current folder."""
    if not os.fspath(value):
        raise click.BadParameter("is empty; is a variable not set?", ctx, param)


class _Path(click.Path):
    """A path, never empty."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        _refuse_empty(value, param, ctx)
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers, in which nan is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a valid float", param, ctx)
        return number


class CompletedText(click.types.StringParamType):
    """Text that a shell completes with names, or with files; never empty."""

    def __init__(self, names: Callable[[], Sequence[str]] = list, *, files: bool = True) -> None:
        """Names: what lists them; files: whether a path may stand there, too."""
        self._names, self._files = names, files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text."""
        _refuse_empty(value, param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(self, _: click.Context, __: click.Parameter, text: str) -> list[Any]:
        """The names that begin so, and a word for files; as click."""
        found = [CompletionItem(name) for name in self._names() if name.startswith(text)]
        return [*found, CompletionItem(text, type="file")] if self._files else found


PATH = CompletedText()
"""A file or a folder, perhaps with more behind it, such as ``@SPLIT``."""
MODEL = CompletedText(lambda: [*EMBEDDED, *PUBLISHED])
"""A file, or the name of a model."""
NAME = CompletedText(files=False)
"""A word that is not empty."""
MODEL_NAME = CompletedText(lambda: [*EMBEDDED, *PUBLISHED], files=False)
PUBLISHED_NAME = CompletedText(lambda: [*PUBLISHED], files=False)


class Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Lines(Progress):
    """Stands in for a bar where nobody watches: a line every `PRINT_SECONDS`."""

    def __init__(self, *columns: ProgressColumn) -> None:
        # A step may take longer than the half minute that a bar estimates the speed from.
        super().__init__(*columns, disable=True, console=errors, speed_estimate_period=3600)
        self._printed = time.monotonic()

    def update(self, task_id: TaskID, *given: Any, **values: Any) -> None:
        """As of a bar."""
        super().update(task_id, *given, **values)
        self._print(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As of a bar."""
        super().advance(task_id, advance)
        self._print(task_id)

    def _print(self, task_id: TaskID) -> None:
        if time.monotonic() - self._printed < PRINT_SECONDS:
            return
        self._printed = time.monotonic()
        task = next(task for task in self.tasks if task.id == task_id)
        what, count, rate, left = (
            str(column(task)) for column in self.columns if isinstance(column, ProgressColumn)
        )
        known = task.time_remaining is not None
        parts = [f"{what}: {count.strip()}", rate, f"{left} left" if known else ""]
        say(", ".join(part for part in parts if part))


def progress_bar() -> Progress:
    """A bar with count, speed and time left on stderr; lines where nobody watches."""
    return _bar(MofNCompleteColumn(), Rate())


def download_bar() -> Progress:
    """A bar with bytes, speed and time left on stderr; lines where nobody watches."""
    return _bar(DownloadColumn(), TransferSpeedColumn())


def _bar(*columns: ProgressColumn) -> Progress:
    what, left = TextColumn("{task.description}"), TimeRemainingColumn()
    if not sys.stderr.isatty():
        return Lines(what, *columns, left)
    return Progress(what, BarColumn(), *columns, left, console=errors, transient=True)


def count_on(bar: Progress, what: str, total: int) -> Callable[[int], None]:
    """Add a step to a bar; the call says how much of it is done."""
    task = bar.add_task(what, total=total)
    return lambda done: bar.update(task, completed=done)


def say_done(count: int, what: str, seconds: float, place: object = "") -> None:
    """How many were looked at, in what time, and where the result is, on stderr."""
    rate = f", {count / seconds:.1f} {what}s/s" if count else ""
    say(f"{counted(count, what)} in {seconds:.1f} s{rate}" + (f": {place}" if place else ""))


def wide_console(columns: int = 100) -> Console:
    """Standard output as wide as the terminal, or where there is none as so many columns; text is
    printed as it is."""
    width = shutil.get_terminal_size((columns, 24)).columns
    return Console(width=width, highlight=False, markup=False, emoji=False)


def plain_table(*headings: str, right: Iterable[int] = ()) -> Table:
    """A table with one line below its headings, and these columns, from 0, flush right."""
    table = Table(*headings, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in right:
        table.columns[column].justify = "right"
    return table


def print_titled(title: str, table: Table, *notes: str) -> None:
    """A table between its title and its notes, which are not broken to the table's width."""
    console = Console(highlight=False, emoji=False)
    console.print(title, style="table.title", markup=False, soft_wrap=True)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Lines on stderr, as they are."""
    errors.print(text, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line on stderr."""
    say(f"warning: {message}")


def warn_of_assumptions(dataset: Dataset) -> None:
    """What was taken for granted while a data set was read."""
    for assumed in dataset.assumed:
        warn(f"{dataset.name}: {assumed}")


def warn_of_problems(dataset: Dataset) -> None:
    """What was assumed, the first problems of a data set, and how many more there are."""
    warn_of_assumptions(dataset)
    for problem in dataset.problems[:SHOWN_PROBLEMS]:
        warn(f"{dataset.name}: left out {problem}")
    more = len(dataset.problems) - SHOWN_PROBLEMS
    if more > 0:
        warn(f"{dataset.name}: left out {more} more")


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


FILE = _Path(path_type=Path)
NEW_FILE = _Path(path_type=Path, dir_okay=False)
FOLDER = _Path(path_type=Path, file_okay=False)
SHARE = NumberRange(0, 1)
THREADS = click.IntRange(1, MAX_THREADS)

engine_option = click.option(
    "--engine", type=click.Choice([*ENGINES, AUTO]),
    help=f"What computes. auto times all and takes the fastest. [default: {DEFAULT_ENGINE}]",
)  # fmt: skip


model_option = click.option(
    "--model", type=MODEL, default="default", help="An ONNX file, or the name of a model."
)
score_option = click.option(
    "--score", type=SHARE, default=DEFAULT_SCORE,
    help="Leave out detections that score less.",
)  # fmt: skip
classes_option = click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="Only this class; may be repeated."
)
policy_option = click.option(
    "--policy", type=click.Choice(list(POLICIES)),
    help="NMS policy, only for files that end at raw outputs. Others have the NMS in the file, see "
    "ssd34 export --policy. [default: zoo]",
)  # fmt: skip
preprocess_option = click.option(
    "--preprocess", "preprocessing", type=click.Choice(PREPROCESSINGS), default=CARD,
    help="card: as published, bit for bit. fast: less work on large pictures.", show_default=True,
)  # fmt: skip
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=MAX_PIXELS, help="Refuse larger pictures."
)
threads_option = click.option(
    "--threads", type=THREADS, help="Threads. [default: what this process may use]"
)
coco_names_option = click.option(
    "--coco-names", is_flag=True, help="Use COCO's names for VOC's classes."
)
PRINTED = Path("-")
"""``--json`` without a file: the result goes to standard output as JSON, and nothing else does."""


def _json_target(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Refuse what was rather meant as an argument, which the result would overwrite."""
    if value is None or value == PRINTED or value.suffix.lower() == ".json" or is_special(value):
        return value
    raise OptionError(
        f"--json {value}: expected the name of a file that ends in .json; to print the result, "
        "give --json as the last word, or --json -"
    )


json_option = click.option(
    "--json", "json_file", is_flag=False, flag_value=str(PRINTED), metavar="[FILE]",
    type=FILE, callback=_json_target,
    help="Print the result as JSON and nothing else, or write it to FILE, which ends in .json.",
)  # fmt: skip
json_flag = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)


def emit_json(values: Mapping[str, Any], target: Path | None = PRINTED) -> None:
    """Print the result of a command, or write it to a file; None: neither."""
    if target == PRINTED:
        click.echo(json.dumps(values, indent=1))
    elif target:
        write_json(target, values)


def file_of(target: Path | None) -> Path | None:
    """The file that ``--json`` names, if it names one."""
    return None if target == PRINTED else target


def say_choice(session: Session) -> None:
    """What ``--engine auto`` took and why, on stderr."""
    if session.choice:
        say(session.choice.reason)
