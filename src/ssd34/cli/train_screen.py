"""What ``ssd34 train`` shows while it runs, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from ssd34.cli.console import duration, errors

if TYPE_CHECKING:
    from ssd34.evaluate.coco_metrics import CocoMetrics
    from ssd34.train.progress import Progress
    from ssd34.train.tensorboard import EventWriter

PRINT_SECONDS = 15


class Screen:
    """A status line where somebody watches, else a line every few seconds.

    Attributes:
        also: hears the same, if it is there.
    """

    def __init__(self) -> None:
        self.also: EventWriter | None = None
        self.live = sys.stderr.isatty()
        self.printed = 0.0

    def progress(self, now: Progress) -> None:
        """Show where the run stands."""
        if self.also:
            self.also.progress(now)
        if not self.live and time.monotonic() - self.printed < PRINT_SECONDS:
            return
        self.printed = time.monotonic()
        best = f"best AP {now.best_ap:.4f}  " if now.best_ap >= 0 else ""
        self._show(
            f"{now.share:6.1%}  epoch {now.step / now.batches_per_epoch:.2f}  step {now.step}  "
            f"loss {now.loss:.3f} (box {now.box_loss:.3f}, class {now.class_loss:.3f})  {best}"
            f"lr {now.learning_rate:.2g}  {now.image_size} px  "
            f"{now.images_per_second:.1f} images/s (waiting {now.data_wait:.0%})  "
            f"left {duration(now.remaining)}",
            keep=not self.live,
        )

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        if self.live:
            self._show(f"evaluating {done}/{total}", keep=False)

    def evaluated(self, epoch: int, metrics: CocoMetrics) -> None:
        """Show a result; it stays."""
        if self.also:
            self.also.evaluated(metrics)
        self._show(f"epoch {epoch}: AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}", keep=True)

    def _show(self, text: str, *, keep: bool) -> None:
        if self.live:
            width = errors.width - 1
            sys.stderr.write("\r\x1b[K" + text[:width] + ("\n" if keep else ""))
        else:
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
