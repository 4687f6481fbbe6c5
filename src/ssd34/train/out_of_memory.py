"""Turns a lack of memory, however a library tells of it, into an error that says what to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssd34.errors import TrainingError
from ssd34.text import counted
from ssd34.train.settings.options import TrainOptions


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch, on the CPU or a GPU, is a lack of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "defaultcpuallocator" in text or "out of memory" in text or "bad_alloc" in text
    )


@contextmanager
def advised(pictures: int, side: int, options: TrainOptions, *, least: int = 1) -> Iterator[None]:
    """Within it a lack of memory says which batch to try.

    Args:
        pictures: that are in the network at once.
        side: of its input, pixels.
        options: of the run.
        least: pictures that a part of a batch must have.

    Raises:
        TrainingError: the memory is too small.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise TrainingError(_advice(pictures, side, options, least)) from None


def _advice(pictures: int, side: int, options: TrainOptions, least: int) -> str:
    message = f"out of memory with {counted(pictures, 'picture')} of {side} pixels at once"
    if pictures < 2 * least or options.batch_size < 2 * least * options.accumulate:
        return f"{message}; use a smaller network or input, or another machine"
    return (
        f"{message}; add --set accumulate={2 * options.accumulate}, which computes the same "
        f"batch in smaller parts, or try --batch {options.batch_size // 2}"
    )
