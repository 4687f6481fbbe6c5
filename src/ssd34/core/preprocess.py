"""A picture to the network's input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.errors import ImageError

MEAN = (0.485, 0.456, 0.406)
"""ImageNet mean of red, green and blue, of values in 0..1."""
STD = (0.229, 0.224, 0.225)
"""ImageNet standard deviation of red, green and blue, of values in 0..1."""


def normalisation_table() -> NDArray[np.float32]:
    """The normalised value of every byte: (3, 256) float32.

    The published model card normalises in float64 and stores float32. A byte has only 256
    values, so a table of its results is the same arithmetic bit for bit, and faster.
    """
    scaled = np.arange(256, dtype=np.float64) / 255
    mean, std = np.array(MEAN)[:, None], np.array(STD)[:, None]
    normalised = (scaled[None, :] - mean) / std
    return np.asarray(normalised, np.float32)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) uint8 RGB stretched to (size, size, 3) with Pillow's bilinear filter.

    The filter averages when it shrinks, as on the published model card.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(
            f"expected a picture of shape (H, W, 3) and dtype uint8, RGB, got shape "
            f"{image.shape} and dtype {image.dtype}"
        )
    if 0 in image.shape:
        raise ImageError(f"expected a picture with at least one pixel, got shape {image.shape}")
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def preprocess(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """A picture (H, W, 3) uint8 RGB as network input.

    Source: the published model card's snippet; equal to it bit for bit.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        size: side of the network's input in pixels.

    Returns:
        (1, 3, size, size) float32, normalised with the ImageNet mean and deviation.

    Raises:
        ImageError: the array is not a picture of that form.
    """
    pixels = resize(image, size)
    table = normalisation_table()
    planes = [table[channel][pixels[..., channel]] for channel in range(3)]
    return np.stack(planes)[None]
