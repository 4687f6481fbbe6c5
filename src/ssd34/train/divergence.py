"""Notices a loss that explodes, and says what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from ssd34.train.step import Step

SMOOTHING = 0.95
FIRST_STEPS = 20
FACTOR = 10.0
FIRST_FACTOR = 50.0
"""In place of `FACTOR` in the first steps, whose mean is of few batches and says less."""

DOUBT = 3.0
HARMLESS = 5.0
"""A mean loss below this is no explosion, whatever it was before; a start from random weights
has about 20."""


@dataclass
class LossWatch:
    """Compares the running mean of the loss with the lowest that it was.

    Attributes:
        steps: losses taken in, also before a resume.
        last: the last of them.
        mean: their running mean.
        lowest: the lowest that it was.
    """

    steps: int = 0
    last: float = 0.0
    mean: float = 0.0
    lowest: float = 0.0

    def find_wrong(self, step: Step) -> str | None:
        """Take a step in; what is wrong with its loss, such as a mean of ten times the lowest."""
        if not step.finite:
            return f"the loss is {step.loss:.3g}, its gradient's norm {step.gradient_norm:.3g}"
        self.steps += 1
        self.last = step.loss
        self.mean += (1 - min(SMOOTHING, 1 - 1 / self.steps)) * (step.loss - self.mean)
        self.lowest = self.mean if self.steps == 1 else min(self.lowest, self.mean)
        factor = FIRST_FACTOR if self.steps < FIRST_STEPS else FACTOR
        if self.mean > max(HARMLESS, factor * self.lowest):
            return f"the loss has grown from {self.lowest:.3g} to {self.mean:.3g}"
        return None

    @property
    def doubtful(self) -> bool:
        """Whether the loss, or its mean, is so high that it may be about to explode."""
        return max(self.last, self.mean) > max(HARMLESS, DOUBT * self.lowest)


def advise(*, rate: float, step: int, saved: int) -> str:
    """What to try where the loss diverged at a learning rate after so many steps; the last
    checkpoint is of the step `saved`, -1: there is none."""
    lower = f"a lower --lr (now {rate:.2g}) or a smaller --set gradient_clip"
    if saved < 0:
        advice = (
            f"there is no checkpoint yet: start again with {lower}, or a longer --set warmup_steps"
        )
    elif saved == step:
        advice = (
            f"the last checkpoint has the very weights that led to it: start again, in another "
            f"folder, with {lower}, or a longer --set warmup_steps"
        )
    else:
        advice = (
            f"the last checkpoint is from before, step {saved}: begin another run with --init "
            f"last.safetensors and {lower}, or start again with a longer --set warmup_steps"
        )
    return f"training diverged; {advice}"
