"""A picture to the network's input."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.errors import ImageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet mean and standard deviation of red, green and blue, of values in 0..1."""

CARD, FAST = "card", "fast"
PREPROCESSINGS = (CARD, FAST)
"""How pictures become the network's input: bit for bit as on the published model card, or with less
work where they are larger than the input, see `ssd34.images.reduced`."""


@cache
def _normalisation_table() -> NDArray[np.float32]:
    """The normalised value of every byte: (3, 256) float32, read-only.

    The published model card normalises in float64 and stores float32; a table of its results is the
    same bit for bit, and faster.
    """
    mean, std = np.array(MEAN)[:, None], np.array(STD)[:, None]
    table = np.asarray((np.arange(256) / 255 - mean) / std, np.float32)
    table.setflags(write=False)
    return table


def resize(image: NDArray[np.uint8] | Image.Image, size: int) -> NDArray[np.uint8]:
    """A picture, (H, W, 3) uint8 RGB or a Pillow image of mode RGB, stretched to (size, size, 3)
    uint8 with Pillow's bilinear filter, which averages when it shrinks, as on the published model
    card; ImageError where it is not a picture of that form."""
    if isinstance(image, Image.Image):
        if image.mode != "RGB" or 0 in image.size:
            raise ImageError(
                "expected a picture of mode RGB with at least one pixel, got mode "
                f"{image.mode} and size {image.size}"
            )
    else:
        check_pixels(image)
        if image.shape[:2] == (size, size):
            return image
        image = Image.fromarray(image)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def preprocess(
    image: NDArray[np.uint8] | Image.Image, size: int, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """A picture, as `resize` takes it, as network input (1, 3, size, size) float32, normalised with
    the ImageNet mean and deviation; equal to the published model card's snippet bit for bit.

    It is written into `out` where that is given. A new array costs more than filling it: at 1200
    pixels the system hands out 17 MB in pages.
    """
    pixels = resize(image, size)
    tensor = np.empty((1, 3, size, size), np.float32) if out is None else out
    assert tensor.shape == (1, 3, size, size) and tensor.dtype == np.float32
    for plane, table, channel in zip(
        tensor[0], _normalisation_table(), np.moveaxis(pixels, 2, 0), strict=True
    ):
        # "clip" never clips a byte; it spares take() a buffer between the table and `plane`.
        np.take(table, channel, out=plane, mode="clip")
    return tensor


def check_pixels(image: NDArray[np.uint8]) -> None:
    """Refuse with ImageError what is no picture (H, W, 3) uint8 of at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ImageError(
            "expected a picture of shape (H, W, 3), RGB, dtype uint8 and at least one pixel, got "
            f"shape {image.shape} and dtype {image.dtype}"
        )
