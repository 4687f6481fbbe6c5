"""How a run of ``ssd34 train`` ended, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssd34.core.counted import counted
from ssd34.data.checkpoint import read_header

if TYPE_CHECKING:
    from ssd34.train.progress import Outcome


def ending(outcome: Outcome, *, target_map: float | None) -> str:
    """What the run did, what it reached and, if there was a target, whether it did."""
    parts = [f"{'finished' if outcome.finished else 'stopped'} after "
             f"{counted(outcome.steps, 'step')}"]  # fmt: skip
    if outcome.best.exists() and outcome.best_ap >= 0:  # else what is there is of another policy
        best = read_header(outcome.best).state
        epoch = best["step"] / best["batches_per_epoch"]
        parts[0] += f", best AP {outcome.best_ap:.4f} at epoch {epoch:.4g}"
    if not outcome.finished:
        parts.append("go on with --resume")
    elif target_map is not None:
        reached = "reached" if outcome.best_ap >= target_map else "not reached"
        parts.append(f"target AP {target_map:g} {reached}")
    return "; ".join(parts)
