"""What a new run is warned of before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ssd34.core.counted import counted

if TYPE_CHECKING:
    from ssd34.train.loader import TrainingSet
    from ssd34.train.options import TrainOptions


def warnings_of(options: TrainOptions, sources: Sequence[TrainingSet]) -> Iterator[str]:
    """A line on each setting that fits the run badly."""
    from ssd34.train.loader import batches_an_epoch

    if options.epochs is not None:
        steps = options.epochs * batches_an_epoch(sources, options.batch_size)
        # The rate falls while it still climbs, and does not come near its peak.
        if options.warmup_steps > max(1, steps // 2):
            yield (
                f"{options.warmup_steps} steps of warm-up in a run of {counted(steps, 'step')}: "
                "the learning rate does not come near its peak; try more epochs or --warmup "
                f"{max(1, steps // 10)}"
            )
