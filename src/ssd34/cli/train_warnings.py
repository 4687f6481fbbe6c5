"""What a new run is warned of before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ssd34.core.counted import counted

if TYPE_CHECKING:
    from ssd34.core.spec import ModelSpec
    from ssd34.train.options import TrainOptions
    from ssd34.train.start import Start
    from ssd34.train.training_set import TrainingSet


def warnings_of(
    options: TrainOptions, sources: Sequence[TrainingSet], *, start: Start, spec: ModelSpec
) -> Iterator[str]:
    """A line on each setting that fits the run badly."""
    from ssd34.train.loader import batches_an_epoch
    from ssd34.zoo.trunks import trunk_name

    if start.kind == "random":
        yield (
            "start: random weights; from few pictures far more is learned with --init "
            f"{trunk_name(spec.trunk)}, an ImageNet trunk, or --recipe fine-tune, from a detector"
        )

    for source in sources:
        left_out = len(source.dataset) - len(source.usable)
        if left_out:
            yield (
                f"{source.dataset.name}: {left_out} of {counted(len(source.dataset), 'picture')} "
                "have no box to learn from and are not drawn"
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
