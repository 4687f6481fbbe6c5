"""Which part of a network a smaller input leaves untrained."""

from __future__ import annotations

from ssd34.core.spec import ModelSpec
from ssd34.train.options import TrainOptions


def untrained_levels(spec: ModelSpec, options: TrainOptions) -> str | None:
    """A warning of levels whose feature map vanishes at `small_size`; None where all are trained.

    The network that is shipped has them at its full size, with the weights that they have then.
    """
    small = options.small_size
    if small is None or options.small_share == 0:
        return None
    levels, left = len(spec.steps), len(spec.at_size(small).steps)
    if left >= levels:
        return None
    enough = next(side for side in range(small, 2 * spec.image_size)
                  if len(spec.at_size(side).steps) == levels)  # fmt: skip
    lacks = (
        f"at {small} pixels the network has only {left} of its {levels} levels: the default boxes "
        "for the largest objects"
    )
    if options.small_share == 1:
        return (
            f"{lacks} are never trained; give --set small_size={enough} or more, or a "
            "small_share below 1"
        )
    return (
        f"{lacks} are not trained in the first {options.small_share:.0%} of the run; from "
        f"--set small_size={enough} on they are"
    )
