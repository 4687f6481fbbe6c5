"""How long a run still takes, from what its steps and evaluations have taken in this sitting."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssd34.train.options import TrainOptions

FORWARD_SHARE = 1 / 3
"""Of a step's time: what its pictures take in an evaluation, until one was timed."""


class Timed(NamedTuple):
    """How often something was done, and the seconds that it took together."""

    times: int = 0
    seconds: float = 0.0

    def plus(self, times: int, seconds: float) -> Timed:
        """With more of it."""
        return Timed(self.times + times, self.seconds + seconds)

    @property
    def mean(self) -> float:
        """Seconds each; 0 where nothing was timed."""
        return self.seconds / self.times if self.times else 0.0


class TimeLeft:
    """Times steps at the small and the full input size, and evaluations, apart from each other."""

    def __init__(
        self, options: TrainOptions, *, batches_per_epoch: int, full_size: int, measured: int
    ) -> None:
        """
        Args:
            options: of the run.
            batches_per_epoch: steps of an epoch.
            full_size: the network's input, pixels.
            measured: pictures of an evaluation.
        """
        self._options = options
        self._per_epoch = batches_per_epoch
        self._measured = measured
        self._small_share = options.small_share if options.small_size else 0.0
        self._area = (full_size / options.small_size) ** 2 if options.small_size else 1.0
        self._small = self._full = self._evaluations = Timed()

    def stepped(self, steps: int, seconds: float, *, share: float) -> None:
        """Take in some steps, after which a share of the run is done."""
        if share <= self._small_share:
            self._small = self._small.plus(steps, seconds)
        else:
            self._full = self._full.plus(steps, seconds)

    def evaluated(self, seconds: float) -> None:
        """Take in an evaluation."""
        self._evaluations = self._evaluations.plus(1, seconds)

    def seconds(self, *, step: int, evaluated: int, elapsed: float) -> float:
        """What is still to come, evaluations included.

        Args:
            step: steps done.
            evaluated: the step after which was last evaluated.
            elapsed: seconds of training, which count where the run's length is by the clock.
        """
        options, per_epoch = self._options, self._per_epoch
        interval = per_epoch * options.evaluate_every
        small = self._small.mean or self._full.mean / self._area
        full = self._full.mean or self._small.mean * self._area
        if options.epochs is not None:
            steps = options.epochs * per_epoch
            smaller = max(0, math.ceil(self._small_share * steps) - step)
            training = smaller * small + (steps - step - smaller) * full
            last = float(steps)
        else:
            assert options.minutes is not None
            training = max(0.0, 60 * options.minutes - elapsed)
            smaller_time = max(0.0, self._small_share * 60 * options.minutes - elapsed)
            steps_left = (smaller_time / small if small else 0.0) + (
                (training - smaller_time) / full if full else 0.0
            )
            last = step + steps_left
        evaluations = math.ceil(last / interval) - math.ceil(evaluated / interval)
        guess = FORWARD_SHARE * full * self._measured / options.batch_size
        return training + evaluations * (self._evaluations.mean or guess)
