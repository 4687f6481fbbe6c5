"""What training does to a picture: expand, crop, flip, resize in one resample, jitter.

Source: SSD paper section 3.6 and the training benchmark's figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ssd34.core.boxes import clip, pairwise_iou
from ssd34.core.preprocess import MEAN
from ssd34.errors import OptionError

FILL = tuple(round(255 * value) for value in MEAN)
"""Colour around a picture that was zoomed out: the ImageNet mean."""


SMALLEST = 0.1
"""A box narrower or lower than this after all, in pixels, is left out."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much to vary the pictures.

    Attributes:
        expand: share of pictures that are zoomed out.
        largest_expand: largest factor of zooming out, in each direction.
        crop: whether to draw IoU-constrained crops.
        flip: share of pictures that are mirrored.
        brightness, contrast, saturation: factors are drawn from 1 +- this.
        hue: shift drawn from +- this share of the colour circle.
    """

    expand: float = 0.0
    largest_expand: float = 3.0
    crop: bool = True
    flip: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise OptionError(
                    f"expected {name} from {low:g} to {high:g}, got {getattr(self, name)}"
                )


_RANGES = {
    "expand": (0, 1),
    "largest_expand": (1, 16),
    "flip": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
}


class Example(NamedTuple):
    """One training picture.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy, fractions of the picture.
        kept: (N,) int64: which of the original boxes they are.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    kept: NDArray[np.int64]


def augment(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    *,
    size: int,
    options: Augmentation,
    rng: Generator,
    ignored: NDArray[np.bool_] | None = None,
) -> Example:
    """A random variation of a picture and its boxes.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy in pixels.
        size: side of the result.
        options: how much to vary.
        rng: the only source of randomness.
        ignored: (N,) bool: boxes that crops need not respect.
    """
    height, width = image.shape[:2]
    window = np.array([0, 0, width, height], np.float64)
    if rng.random() < options.expand:
        window = _expanded(width, height, options.largest_expand, rng)
    kept = np.arange(len(boxes))
    if options.crop:
        respected = np.ones(len(boxes), np.bool_) if ignored is None else ~ignored
        window, kept = _cropped(window, boxes, respected, rng)
    extent = np.tile(window[2:] - window[:2], 2)
    inside = (boxes[kept] - np.tile(window[:2], 2)) / extent
    inside = clip(inside, width=1, height=1).astype(np.float32)
    visible = ((inside[:, 2:] - inside[:, :2]) * size >= SMALLEST).all(axis=1)
    inside, kept = inside[visible], kept[visible]
    picture = _window(image, window, size)
    if rng.random() < options.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        inside = np.stack([1 - inside[:, 2], inside[:, 1], 1 - inside[:, 0], inside[:, 3]], axis=1)
    jittered = _jittered(picture, options, rng)
    return Example(np.asarray(jittered), inside.astype(np.float32), kept)


def _expanded(width: int, height: int, largest: float, rng: Generator) -> NDArray[np.float64]:
    """A window around the whole picture, up to `largest` times its size."""
    factor = rng.uniform(1, largest)
    left = -rng.uniform(0, width * (factor - 1))
    top = -rng.uniform(0, height * (factor - 1))
    return np.array([left, top, left + width * factor, top + height * factor])


def _cropped(
    window: NDArray[np.float64],
    boxes: NDArray[np.float32],
    respected: NDArray[np.bool_],
    rng: Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A random part of the window and the boxes whose centre it holds.

    With equal chance the whole window is kept, or a part is asked for whose IoU with **all**
    boxes exceeds a bound. One attempt per draw, until one succeeds.
    """
    everything = np.arange(len(boxes))
    if not respected.any():
        return window, everything
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = window[2:] - window[:2]
    while True:
        bound = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)[rng.integers(7)]
        if bound is None:
            return window, everything
        w, h = rng.uniform(0.3, 1, 2)
        if not 0.5 <= w / h <= 2:
            continue
        left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
        part = np.tile(window[:2], 2) + np.array([left, top, left + w, top + h]) * np.tile(
            extent, 2
        )
        if bound > 0 and not (pairwise_iou(boxes[respected], part[None]) > bound).all():
            continue
        inside = ((centres > part[:2]) & (centres < part[2:])).all(axis=1)
        if inside[respected].any():
            return part, np.flatnonzero(inside)


def _window(image: NDArray[np.uint8], window: NDArray[np.float64], size: int) -> Image.Image:
    """The window of a picture, which may reach beyond it, resampled once to size x size."""
    height, width = image.shape[:2]
    source = clip(window, width=width, height=height)
    scale = size / (window[2:] - window[:2])
    target = np.rint((source - np.tile(window[:2], 2)) * np.tile(scale, 2)).astype(int)
    target[2:] = np.maximum(target[2:], target[:2] + 1)
    picture = Image.fromarray(image).resize(
        (int(target[2] - target[0]), int(target[3] - target[1])),
        Image.Resampling.BILINEAR,
        box=tuple(source),
    )
    if picture.size == (size, size):
        return picture
    canvas = Image.new("RGB", (size, size), FILL)
    canvas.paste(picture, (int(target[0]), int(target[1])))
    return canvas


def _jittered(picture: Image.Image, options: Augmentation, rng: Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue, in random order."""
    changes = (
        (ImageEnhance.Brightness, options.brightness),
        (ImageEnhance.Contrast, options.contrast),
        (ImageEnhance.Color, options.saturation),
        (None, options.hue),
    )
    for index in rng.permutation(len(changes)):
        enhance, amount = changes[index]
        if amount == 0:
            continue
        drawn = rng.uniform(-amount, amount)
        if enhance is not None:
            picture = enhance(picture).enhance(1 + drawn)
        else:
            hue, saturation, value = picture.convert("HSV").split()
            shifted = np.asarray(hue) + np.uint8(round(drawn * 255) % 256)
            merged = Image.merge("HSV", (Image.fromarray(shifted), saturation, value))
            picture = merged.convert("RGB")
    return picture
