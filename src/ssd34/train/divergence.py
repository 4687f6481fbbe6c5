"""Notices a loss that explodes without becoming infinite."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.95
FIRST_STEPS = 20
FACTOR = 10.0
FIRST_FACTOR = 50.0
"""In place of `FACTOR` in the first steps, whose mean is of few batches and says less."""

HARMLESS = 5.0
"""A mean loss below this is no explosion, whatever it was before; a start from random weights
has about 20."""


@dataclass
class LossWatch:
    """Compares the running mean of the loss with the lowest that it was.

    Attributes:
        steps: losses taken in, over all sittings.
        mean: their running mean.
        lowest: the lowest that it was.
    """

    steps: int = 0
    mean: float = 0.0
    lowest: float = 0.0

    def exploded(self, loss: float) -> bool:
        """Take a step's loss in; whether its mean is now ten times the lowest."""
        self.steps += 1
        self.mean += (1 - min(SMOOTHING, 1 - 1 / self.steps)) * (loss - self.mean)
        self.lowest = self.mean if self.steps == 1 else min(self.lowest, self.mean)
        factor = FIRST_FACTOR if self.steps < FIRST_STEPS else FACTOR
        return self.mean > max(HARMLESS, factor * self.lowest)
