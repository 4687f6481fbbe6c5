"""``ssd34 train --init FILE.onnx``: batch norm that the file has folded gets statistics again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from ssd34.cli.console import progress_bar
from ssd34.core.counted import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ssd34.network.ssd import SSD
    from ssd34.train.options import TrainOptions
    from ssd34.train.start import Start
    from ssd34.train.training_set import TrainingSet

FITTING_PICTURES = 320
_AT_ONCE = 4


def fitted_norms(
    network: SSD, sources: Sequence[TrainingSet], *, options: TrainOptions, start: Start
) -> str:
    """Fit what is to train with the batch's statistics and has lost its own, in place.

    Returns:
        What to add to a line on the start; empty where there was nothing to fit.
    """
    from ssd34.network.fit_norms import fit_norms
    from ssd34.train.start import NORMALISED

    parts = [NORMALISED[key] for key in start.folded if getattr(options, key) == "batch"]
    if not parts:
        return ""
    seen = 0

    def counting() -> Iterator[Tensor]:
        nonlocal seen
        for images in _pictures(sources, network, options):
            seen += len(images)
            yield images

    fitted = fit_norms(network, parts, counting())
    return f", batch norm fitted to {counted(seen, 'varied picture')}" if fitted else ""


def _pictures(
    sources: Sequence[TrainingSet], network: SSD, options: TrainOptions
) -> Iterator[Tensor]:
    """The run's first pictures as it varies them, at full size: smaller ones miss a level."""
    from ssd34.train.loader import Loader
    from ssd34.train.step import normalised

    loader = Loader(
        sources,
        spec=network.spec,
        options=options.augmentation,
        matcher=options.matcher,
        batch_size=_AT_ONCE,
        seed=options.seed,
        workers=0,
        size_now=lambda _: network.spec.image_size,
    )
    with progress_bar() as bar, closing(loader.batches(0)) as batches:
        task = bar.add_task("fitting batch norm", total=FITTING_PICTURES)
        for _ in range(0, FITTING_PICTURES, _AT_ONCE):
            images = next(batches).images
            if len(images):
                yield normalised(images)
            bar.update(task, advance=_AT_ONCE)
