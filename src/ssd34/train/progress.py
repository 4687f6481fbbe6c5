"""What a run reports while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd34.datasets.dataset import Dataset, Problem
    from ssd34.evaluate.metrics import CocoMetrics
    from ssd34.train.run import TrainingRun
    from ssd34.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands after a step.

    Attributes:
        elapsed, remaining: seconds of training alone, without evaluations.
        best_ap: -1 before the first evaluation.
    """

    step: int
    batches_per_epoch: int
    share: float
    elapsed: float
    remaining: float
    image_size: int
    learning_rate: float
    loss: float
    box_loss: float
    class_loss: float
    gradient_norm: float
    images_per_second: float
    data_wait: float
    best_ap: float


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """How a run ended: where the weights are and what they reach on the validation set."""

    last: Path
    best: Path
    best_ap: float
    steps: int
    finished: bool


class TrainListener:
    """Hears of a training. This one does nothing: override what you want to hear, or give functions
    by the names of its methods, such as ``TrainListener(stop=asked)``."""

    def __init__(self, **heard: Callable[..., Any]) -> None:
        if unknown := [name for name in heard if not hasattr(TrainListener, name)]:
            raise TypeError(f"a listener does not hear {', '.join(unknown)}")
        self.__dict__.update(heard)

    def dataset_opened(self, dataset: Dataset) -> None:
        """The data are open; ``dataset.problems`` had to be left out."""

    def warned(self, message: str) -> None:
        """Something is odd; the training continues."""

    def downloaded(self, name: str, done: int, total: int) -> None:
        """So many bytes of a file are there."""

    def calibrated(self, done: int, total: int) -> None:
        """So many pictures have been looked at for the steps of the int8 file."""

    def begins(self, facts: Sequence[str], history: Sequence[Mapping[str, Any]]) -> None:
        """Everything is settled, as lines say; a resumed run has a history."""

    def ready(self) -> None:
        """Nothing speaks against the run any more: it begins or continues."""

    def stepped(self, step: int, share: float) -> None:
        """A step was made; share: of the run, 0..1."""

    def progress(self, now: Progress) -> None:
        """Means of the last steps."""

    def evaluating(self, done: int, total: int) -> None:
        """So many pictures are measured."""

    def evaluated(self, epoch: float, metrics: CocoMetrics) -> None:
        """A result."""

    def problem(self, problem: Problem) -> None:
        """A picture was left out."""

    def stop(self) -> bool:
        """Whether to stop now, to be resumed; asked after every step."""
        return False

    def ended(self) -> None:
        """The last step and evaluation are done."""


SILENT = TrainListener()


class Pace:
    """Sums since the last report."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was added."""
        self.started = time.perf_counter()
        self.waited = 0.0
        self.steps: list[Step] = []

    def add(self, step: Step, *, waited: float) -> None:
        """Take a step in, and how long it waited for its data."""
        self.steps.append(step)
        self.waited += waited

    def report(self, run: TrainingRun, *, share: float, rate: float, image_size: int) -> Progress:
        """The means since the last report, which are then reset."""
        seconds = time.perf_counter() - self.started
        count = max(1, len(self.steps))
        progress = Progress(
            step=run.step,
            batches_per_epoch=run.batches_per_epoch,
            share=share,
            elapsed=run.elapsed(),
            remaining=run.time_left(seconds / count),
            image_size=image_size,
            learning_rate=rate,
            **{
                name: sum(getattr(step, name) for step in self.steps) / count
                for name in ("loss", "box_loss", "class_loss", "gradient_norm")
            },
            images_per_second=sum(step.pictures for step in self.steps) / seconds,
            data_wait=self.waited / seconds,
            best_ap=run.best_ap,
        )
        self.restart()
        return progress
