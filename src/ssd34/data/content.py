"""What is in the picture files: decoded to the last pixel, told by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssd34.data.dataset import Dataset, ImageStore, Sample
from ssd34.data.image_io import read_image
from ssd34.data.overlap import overlapped
from ssd34.errors import ImageError

_AHEAD = 4
"""Pictures a thread that may wait for their turn; more would only take memory."""


@dataclass(frozen=True, slots=True)
class Content:
    """One picture file.

    Attributes:
        file: SHA-256 of the file; empty where it could not be read.
        pixels: SHA-256 of the decoded picture and its shape; empty where it is broken.
        size: width and height, or None.
        error: why it could not be read; empty if it could.
    """

    file: bytes = b""
    pixels: bytes = b""
    size: tuple[int, int] | None = None
    error: str = ""


def contents(
    dataset: Dataset, *, threads: int = 1, progress: Callable[[int], None] = lambda _: None
) -> list[Content]:
    """Read every picture of a data set.

    At most a few pictures a thread are in memory at once.

    Args:
        dataset: its `samples` are read in order.
        threads: decoding leaves Python's lock, so that threads help.
        progress: called with the number of pictures done.

    Returns:
        One for each sample.
    """
    done: list[Content] = []
    for content in overlapped(
        lambda sample: _content(dataset.images, sample),
        dataset.samples,
        ahead=_AHEAD * threads,
        threads=threads,
    ):
        done.append(content)
        progress(len(done))
    return done


def _content(images: ImageStore, sample: Sample) -> Content:
    name = sample.file_name
    try:
        data = images.read_bytes(name)
    except ImageError as error:
        return Content(error=str(error).removeprefix(f"{name}: "))
    file = hashlib.sha256(data).digest()
    try:
        image = read_image(data)
    except ImageError as error:
        return Content(file, error=str(error).removeprefix("the picture: "))
    height, width = image.shape[:2]
    digest = hashlib.sha256(f"{width} x {height}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return Content(file, digest.digest(), (width, height))
