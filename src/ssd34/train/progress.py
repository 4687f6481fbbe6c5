"""What a run reports while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssd34.datasets.dataset import Problem
from ssd34.evaluate.metrics.coco import CocoMetrics
from ssd34.train.run import Run
from ssd34.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands after a step. Times in seconds: `elapsed` and `remaining` of
    training alone, without evaluations; `best_ap` is -1 before the first evaluation."""

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
class Outcome:
    """How a run ended: where the weights are and what they reach on the validation set."""

    last: Path
    best: Path
    best_ap: float
    steps: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What a caller is told of a run; libraries do not print. `ready`: all checks have passed, and
    the first step follows."""

    ready: Callable[[], None] = lambda: None
    stepped: Callable[[int, float], None] = lambda _step, _share: None
    progress: Callable[[Progress], None] = lambda _: None
    evaluating: Callable[[int, int], None] = lambda _done, _total: None
    evaluated: Callable[[float, CocoMetrics], None] = lambda _epoch, _metrics: None
    problem: Callable[[Problem], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False


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

    def report(self, run: Run, *, share: float, rate: float, image_size: int) -> Progress:
        """The means since the last report, which are then reset."""
        seconds = time.perf_counter() - self.started
        elapsed = run.elapsed()
        count = max(1, len(self.steps))
        progress = Progress(
            step=run.step,
            batches_per_epoch=run.batches_per_epoch,
            share=share,
            elapsed=elapsed,
            remaining=run.time_left(seconds / count),
            image_size=image_size,
            learning_rate=rate,
            loss=sum(step.loss for step in self.steps) / count,
            box_loss=sum(step.box_loss for step in self.steps) / count,
            class_loss=sum(step.class_loss for step in self.steps) / count,
            gradient_norm=sum(step.gradient_norm for step in self.steps) / count,
            images_per_second=sum(step.pictures for step in self.steps) / seconds,
            data_wait=self.waited / seconds,
            best_ap=run.best_ap,
        )
        self.restart()
        return progress
