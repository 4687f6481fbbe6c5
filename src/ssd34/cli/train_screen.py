"""What ``ssd34 train`` shows while it runs, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from ssd34.cli import console
from ssd34.train.progress import TrainListener

if TYPE_CHECKING:
    from ssd34.datasets.dataset import Dataset, Problem
    from ssd34.evaluate.metrics import CocoMetrics
    from ssd34.train.progress import Progress


PRINT_SECONDS = 15
REFRESH_SECONDS = 0.25
SHOWN_EVALUATIONS = 8


class EvaluationRow(NamedTuple):
    """A row of the table."""

    epoch: float
    step: int
    ap: float
    ap50: float


class TrainScreen(TrainListener):
    """A live table where somebody watches, else a line every few seconds.

    Use it as a context manager. From `ready` to `ended` Ctrl-C or SIGTERM asks the run to stop
    after its step; a second Ctrl-C stops at once. The table is drawn when something happens, at
    most four times a second, and its last state stays, however training ends.
    """

    def __init__(self, errors: Console = console.errors) -> None:
        super().__init__()
        self._console = errors
        self._live: Live | None = None
        self._open = ExitStack()
        self._bar: tuple[str, ProgressBar, TaskID] | None = None
        self._printed = self._drawn_at = 0.0
        self._step = 0
        self._asked = False
        self._where = self._means = self._measuring = ""
        self._evaluations: list[EvaluationRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def dataset_opened(self, dataset: Dataset) -> None:
        """Show what had to be left out."""
        console.warn_of_problems(dataset)

    def warned(self, message: str) -> None:
        """Show it."""
        console.warn(message)

    def downloaded(self, name: str, done: int, total: int) -> None:
        """Show how much is there."""
        self._count(console.download_bar, name, done, total)

    def calibrated(self, done: int, total: int) -> None:
        """Show how many pictures are done."""
        self._count(console.progress_bar, "calibrating", done, total)

    def _count(self, new: Callable[[], ProgressBar], name: str, done: int, total: int) -> None:
        if self._bar is None or self._bar[0] != name:
            self._open.close()
            bar = self._open.enter_context(new())
            self._bar = name, bar, bar.add_task(name, total=total)
        _, bar, task = self._bar
        bar.update(task, completed=done)

    def begins(self, facts: Sequence[str], history: Sequence[Mapping[str, Any]]) -> None:
        """Print what was settled."""
        self._open.close()
        for line in facts:
            console.say(line)
        if sys.stderr.isatty() and not console.errors.is_dumb_terminal:
            self.watch(history)

    def watch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Prepare the table, with the evaluations in the records of a resumed run."""
        per_epoch = next((r["batches_per_epoch"] for r in history if r["event"] == "step"), 1)
        self._evaluations = [
            EvaluationRow(record["step"] / per_epoch, record["step"], *_numbers(record["summary"]))
            for record in history
            if record["event"] == "evaluation"
        ]
        # There is no thread that draws.
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._drawn)

    def ready(self) -> None:
        """Start to draw, and take signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._open.callback(signal.signal, number, signal.signal(number, self._ask))
        if self._live:
            self._open.enter_context(self._live)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def stop(self) -> bool:
        """Whether a signal came."""
        return self._asked

    def ended(self) -> None:
        """Draw no more."""
        self._open.close()

    def stepped(self, step: int, share: float) -> None:
        """Count a step."""
        self._step, self._where = step, f"step {step}  {share:.1%}"
        self._draw()

    def progress(self, now: Progress) -> None:
        """Show where the run stands."""
        if self._live:
            self._means = _in_words(now)
            self.stepped(now.step, now.share)
        else:
            self._print_at_times(f"{now.share:6.1%}  step {now.step}  {_in_words(now)}")

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._measuring = f"evaluating {done}/{total}"
        if self._live:
            self._draw()
        else:
            self._print_at_times(self._measuring)

    def evaluated(self, epoch: float, metrics: CocoMetrics) -> None:
        """Show a result; it stays."""
        self._measuring = ""
        self._evaluations.append(EvaluationRow(epoch, self._step, *_numbers(metrics.summary)))
        self._draw(now=True)
        if not self._live:
            when = f"epoch {epoch:.4g}" if epoch else "before the first step"
            console.say(f"{when}: AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}")

    def problem(self, problem: Problem) -> None:
        """Show a picture that was left out, above the table."""
        if self._live:
            text = "".join(c if c.isprintable() else "?" for c in str(problem))
            self._console.print(Text(f"warning: {text}"))
        else:
            console.warn(str(problem))

    def _print_at_times(self, line: str) -> None:
        if time.monotonic() - self._printed >= PRINT_SECONDS:
            self._printed = time.monotonic()
            console.say(line)

    def _draw(self, *, now: bool = False) -> None:
        if self._live and (now or time.monotonic() - self._drawn_at >= REFRESH_SECONDS):
            self._drawn_at = time.monotonic()
            self._live.refresh()

    def _drawn(self) -> Group:
        """Where the run is, the last evaluations, and the best one if it was earlier."""
        best = max(self._evaluations, key=lambda one: one.ap, default=None)
        shown = self._evaluations[-SHOWN_EVALUATIONS:]
        if best and best not in shown:
            shown = [best, *shown[1:]]
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("epoch", "step", "AP", "AP50"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in shown:
            table.add_row(
                f"{one.epoch:.4g}", str(one.step), f"{one.ap:.4f}", f"{one.ap50:.4f}",
                style="bold green" if one is best else None,
            )  # fmt: skip
        lines = [Text(line) for line in (self._where, self._means, self._measuring) if line]
        return Group(*lines, *([table] if shown else []))


def _in_words(now: Progress) -> str:
    best = f"best AP {now.best_ap:.4f}  " if now.best_ap >= 0 else ""
    return (
        f"epoch {now.step / now.batches_per_epoch:.2f}  "
        f"loss {now.loss:.3f} (box {now.box_loss:.3f}, class {now.class_loss:.3f})  {best}"
        f"lr {now.learning_rate:.2g}  {now.image_size} px  "
        f"{now.images_per_second:.1f} images/s (waiting {now.data_wait:.0%})  "
        f"left {console.duration(now.remaining)}"
    )


def _numbers(summary: Mapping[str, float | None]) -> tuple[float, float]:
    return summary["AP"] or 0.0, summary["AP50"] or 0.0
