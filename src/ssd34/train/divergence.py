"""Notices a loss that explodes without becoming infinite."""

from __future__ import annotations

SMOOTHING = 0.95
FIRST_STEPS = 20
FACTOR = 10.0
HARMLESS = 5.0
"""A mean loss below this is no explosion, whatever it was before; a start from random weights
has about 20."""


class LossWatch:
    """Compares the running mean of the loss with the lowest that it was."""

    def __init__(self) -> None:
        self.steps = 0
        self.mean = 0.0
        self.lowest = float("inf")

    def exploded(self, loss: float) -> bool:
        """Take a step's loss in; whether its mean is now ten times the lowest."""
        self.steps += 1
        self.mean += (1 - min(SMOOTHING, 1 - 1 / self.steps)) * (loss - self.mean)
        if self.steps < FIRST_STEPS:
            return False
        self.lowest = min(self.lowest, self.mean)
        return self.mean > max(HARMLESS, FACTOR * self.lowest)
