"""What to say before a training begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ssd34.text import counted

if TYPE_CHECKING:
    from ssd34.core.spec import ModelSpec
    from ssd34.network.start import Start
    from ssd34.train.examples.training_set import TrainingSet
    from ssd34.train.settings.options import TrainOptions


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


def warnings_of(
    options: TrainOptions, sources: Sequence[TrainingSet], *, start: Start, spec: ModelSpec
) -> Iterator[str]:
    """A line on each setting that fits the run badly."""
    from ssd34.train.examples.loader import batches_an_epoch
    from ssd34.zoo.catalogue import backbone_name

    if start.kind == "random":
        yield (
            "start: random weights; from few pictures far more is learned with --init "
            f"{backbone_name(spec.backbone)}, an ImageNet backbone, or --recipe fine-tune, from a "
            "detector"
        )

    for source in sources:
        left_out = len(source.dataset) - len(source.usable)
        if left_out:
            yield (
                f"{source.dataset.name}: {left_out} of {counted(len(source.dataset), 'picture')} "
                "have no box to learn from and are left out"
            )

    if options.epochs is not None:
        steps = options.epochs * batches_an_epoch(sources, options.batch_size)
        # The rate falls while it still climbs, and does not come near its peak.
        if options.warmup_steps > max(1, steps // 2):
            yield (
                f"{options.warmup_steps} steps of warm-up in a run of {counted(steps, 'step')}: "
                "the learning rate does not come near its peak; try more epochs or --set "
                f"warmup_steps={max(1, steps // 10)}"
            )
