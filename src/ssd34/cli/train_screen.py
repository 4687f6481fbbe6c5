"""What ``ssd34 train`` shows while it runs, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from ssd34.cli.console import duration, errors, warn
from ssd34.cli.train_live import LiveTable

if TYPE_CHECKING:
    from ssd34.data.dataset import Problem
    from ssd34.evaluate.metrics.coco import CocoMetrics
    from ssd34.train.progress import Progress
    from ssd34.train.tensorboard import EventWriter

PRINT_SECONDS = 15


class Screen:
    """A live table where somebody watches, else a line every few seconds.

    Only what is within its `with` is drawn; the last state stays.

    Attributes:
        also: hears the same, if it is there.
    """

    def __init__(
        self, *, policy: str, shown: bool = True, history: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """
        Args:
            policy: by which evaluations pick detections.
            shown: False: print nothing but warnings, as another process tells of the run.
            history: records of a run that goes on.
        """
        self.also: EventWriter | None = None
        watched = shown and sys.stderr.isatty() and not errors.is_dumb_terminal
        self._live = LiveTable(errors) if watched else None
        if self._live:
            self._live.remember(history, policy=policy)
        self._printed = 0.0

    def __enter__(self) -> None:
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def stepped(self, step: int, share: float) -> None:
        """Count a step."""
        if self._live:
            self._live.stepped(step, share)

    def progress(self, now: Progress) -> None:
        """Show where the run stands."""
        if self.also:
            self.also.progress(now)
        if self._live:
            self._live.progress(now)
            return
        if time.monotonic() - self._printed < PRINT_SECONDS:
            return
        self._printed = time.monotonic()
        best = f"best AP {now.best_ap:.4f}  " if now.best_ap >= 0 else ""
        _print(
            f"{now.share:6.1%}  epoch {now.step / now.batches_per_epoch:.2f}  step {now.step}  "
            f"loss {now.loss:.3f} (box {now.box_loss:.3f}, class {now.class_loss:.3f})  {best}"
            f"lr {now.learning_rate:.2g}  {now.image_size} px  "
            f"{now.images_per_second:.1f} images/s (waiting {now.data_wait:.0%})  "
            f"left {duration(now.remaining)}"
        )

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        if self._live:
            self._live.evaluating(done, total)

    def evaluated(self, epoch: float, metrics: CocoMetrics) -> None:
        """Show a result; it stays."""
        if self.also:
            self.also.evaluated(metrics)
        if self._live:
            self._live.evaluated(metrics)
        else:
            _print(f"epoch {epoch:.4g}: AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}")

    def problem(self, problem: Problem) -> None:
        """Show a picture that was left out."""
        if self._live:
            self._live.problem(problem)
        else:
            warn(str(problem))


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class StopOnSignal:
    """Ctrl-C or SIGTERM asks the loop to stop after its step; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
