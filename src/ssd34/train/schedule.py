"""The learning rate over training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssd34.errors import OptionError

DECAYS = (40 / 60, 50 / 60)
"""The published decays, as shares of the run."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up, then cosine to zero or steps.

    Attributes:
        peak: learning rate after the warm-up.
        warmup_steps: steps that climb linearly to the peak.
        kind: ``"cosine"`` or ``"step"``.
        decays: for ``"step"``: shares of training after which the rate is divided by ten.
    """

    peak: float
    warmup_steps: int
    kind: str = "cosine"
    decays: tuple[float, ...] = DECAYS

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "step"):
            raise OptionError(f"unknown schedule {self.kind!r}; expected cosine or step")

    def rate(self, *, step: int, progress: float) -> float:
        """The learning rate of a step.

        Args:
            step: steps done.
            progress: share of training done, 0..1.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.kind == "cosine":
            return self.peak * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.peak * warm * 0.1 ** sum(progress >= decay for decay in self.decays)
