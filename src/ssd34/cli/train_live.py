"""The table that ``ssd34 train`` keeps up to date in a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssd34.cli.console import duration
from ssd34.train.history import other_policy

if TYPE_CHECKING:
    from ssd34.data.dataset import Problem
    from ssd34.evaluate.metrics.coco import CocoMetrics
    from ssd34.train.progress import Progress

REFRESH_SECONDS = 0.25
SHOWN_EVALUATIONS = 8
SHOWN_WARNINGS = 3
LOSSES = ("loss", "box_loss", "class_loss")


@dataclass(frozen=True)
class Evaluation:
    """A row of the table: what was measured, and the mean losses since the row before, none where
    a run went on right before it was measured. One under another policy is no candidate for the
    best."""

    step: int
    epoch: float
    ap: float
    ap50: float
    losses: tuple[float, ...]
    candidate: bool


class LiveTable:
    """The run so far. It is drawn when something happens, at most four times a second, and what
    was drawn last stays when training ends, however it ends.

    There is no thread that draws: worker processes are forked while it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._now: Progress | None = None
        self._share = 0.0
        self._step = 0
        self._per_epoch = 0
        self._measuring: tuple[int, int] | None = None
        self._evaluations: list[Evaluation] = []
        self._losses: list[tuple[float, ...]] = []
        self._warnings: deque[str] = deque(maxlen=SHOWN_WARNINGS)
        self._warned = 0
        self._drawn_at = 0.0
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._drawn)

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def stop(self) -> None:
        """Draw a last time; what is printed afterwards comes below."""
        self._live.stop()

    def remember(self, history: Iterable[Mapping[str, Any]], *, policy: str) -> None:
        """Take in the records of the history of a run that goes on.

        Args:
            history: the records.
            policy: that of the evaluations to come.
        """
        for record in history:
            self._step = record["step"]
            if record["event"] == "step":
                self._losses.append(tuple(record[name] for name in LOSSES))
                self._per_epoch, self._share = record["batches_per_epoch"], record["share"]
            elif record["event"] == "evaluation":
                values = record["summary"]
                candidate = other_policy(record, policy) is None
                self._measured(values["AP"], values["AP50"], candidate=candidate)

    def stepped(self, step: int, share: float) -> None:
        """A step was made."""
        self._step, self._share = step, share
        self._draw()

    def progress(self, now: Progress) -> None:
        """New means."""
        self._now, self._per_epoch = now, now.batches_per_epoch
        self._losses.append(tuple(getattr(now, name) for name in LOSSES))
        self.stepped(now.step, now.share)

    def evaluating(self, done: int, total: int) -> None:
        """Pictures measured so far."""
        self._measuring = (done, total)
        self._draw()

    def evaluated(self, metrics: CocoMetrics) -> None:
        """A result."""
        self._measuring = None
        self._measured(metrics.ap, metrics.ap50)
        self._draw(now=True)

    def problem(self, problem: Problem) -> None:
        """A picture was left out."""
        text = str(problem)
        self._warnings.append("".join(c if c.isprintable() else "?" for c in text))
        self._warned += 1
        self._draw()

    def _measured(self, ap: float | None, ap50: float | None, *, candidate: bool = True) -> None:
        count = len(self._losses)
        means = tuple(sum(column) / count for column in zip(*self._losses, strict=True))
        epoch = self._step / self._per_epoch if self._per_epoch else 0.0
        self._evaluations.append(
            Evaluation(self._step, epoch, ap or 0.0, ap50 or 0.0, means, candidate)
        )
        self._losses = []

    def _draw(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn_at >= REFRESH_SECONDS:
            self._drawn_at = time.monotonic()
            self._live.refresh()

    def _drawn(self) -> RenderableType:
        parts: list[RenderableType] = [self._bar()]
        if self._now:
            parts.append(Columns(self._values(self._now), padding=(0, 2)))
        if self._measuring:
            done, total = self._measuring
            parts.append(_line("evaluating", done / total, f"{done}/{total}"))
        if self._evaluations:
            parts.append(self._table())
        if self._warnings:
            earlier = self._warned - len(self._warnings)
            more = f"warnings, {earlier} earlier ones in history.jsonl:" if earlier else "warnings:"
            parts += [Text(more, "yellow")]
            parts += [Text(f"  {text}", no_wrap=True, overflow="ellipsis")
                      for text in self._warnings]  # fmt: skip
        return Group(*parts)

    def _bar(self) -> RenderableType:
        left = f"left {duration(self._now.remaining)}" if self._now else ""
        return _line(f"step {self._step}", self._share, f"{self._share:.1%}  {left}".rstrip())

    def _values(self, now: Progress) -> list[Text]:
        values = {
            "epoch": f"{self._step / now.batches_per_epoch:.2f}",
            "loss": f"{now.loss:.3f}",
            "box": f"{now.box_loss:.3f}",
            "class": f"{now.class_loss:.3f}",
            "gradient": f"{now.gradient_norm:.2f}",
            "rate": f"{now.learning_rate:.2e}",
            "px": f"{now.image_size}",
            "images/s": f"{now.images_per_second:.1f}",
            "waiting": f"{now.data_wait:.1%}",
            "trained": duration(now.elapsed),
        }
        return [Text.assemble((f"{name} ", "dim"), value) for name, value in values.items()]

    def _table(self) -> Table:
        """The last evaluations, and the best one if it was earlier."""
        candidates = (one for one in self._evaluations if one.candidate)
        best = max(candidates, key=lambda one: one.ap, default=None)
        room = max(2, min(SHOWN_EVALUATIONS, self._console.height - 12))
        shown = self._evaluations[-room:]
        if best and best not in shown:
            shown = [best, *shown[1:]]
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("epoch", "step", "AP", "AP50", "loss", "box", "class"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in shown:
            losses = [f"{value:.3f}" for value in one.losses] or [""] * len(LOSSES)
            table.add_row(
                f"{one.epoch:.4g}", str(one.step), f"{one.ap:.4f}", f"{one.ap50:.4f}", *losses,
                style="bold green" if one is best else None,
            )  # fmt: skip
        return table


def _line(name: str, share: float, text: str) -> Table:
    """A bar between two texts, over the whole width."""
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    line.add_row(name, ProgressBar(total=1, completed=share), text)
    return line
