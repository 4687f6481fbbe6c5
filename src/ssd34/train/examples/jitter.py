"""Random changes of a picture's colours: brightness, contrast, saturation and hue.

They are drawn before the picture is read, and applied to the bytes that the network sees.
Source: the training benchmark's figures, which are those of Pillow's `ImageEnhance` and of a
turn in HSV; results are the same, reached with fewer passes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageStat

BLOCK = 16384
"""Pixels at once: what is computed on the way stays in the processor's cache, which halves the
time."""


class Change(NamedTuple):
    """One change: its name, and how much it was drawn to be, -amount..amount."""

    kind: str
    drawn: float


def draw_changes(amounts: dict[str, float], rng: Generator) -> tuple[Change, ...]:
    """Changes in random order, each drawn from +- its amount; those of amount 0 are left out."""
    kinds = list(amounts)
    order = [kinds[index] for index in rng.permutation(len(kinds))]
    return tuple(
        Change(kind, rng.uniform(-amounts[kind], amounts[kind])) for kind in order if amounts[kind]
    )


def apply_changes(picture: Image.Image, changes: tuple[Change, ...]) -> Image.Image:
    """A picture of mode RGB with its colours changed, one after the other."""
    for kind, drawn in changes:
        picture = _CHANGES[kind](picture, drawn)
    return picture


def _brighter(picture: Image.Image, drawn: float) -> Image.Image:
    return _away_from(0, picture, 1 + drawn)


def _more_contrast(picture: Image.Image, drawn: float) -> Image.Image:
    mean = int(ImageStat.Stat(picture.convert("L")).mean[0] + 0.5)
    return _away_from(mean, picture, 1 + drawn)


def _more_colour(picture: Image.Image, drawn: float) -> Image.Image:
    return ImageEnhance.Color(picture).enhance(1 + drawn)


def _away_from(level: int, picture: Image.Image, factor: float) -> Image.Image:
    """Every byte's distance from a level of grey times a factor: one look in a table."""
    bytes_ = Image.frombytes("L", (256, 1), bytes(range(256)))
    table = Image.blend(Image.new("L", (256, 1), level), bytes_, factor).tobytes()
    return picture.point(list(table) * 3)


def _turned(picture: Image.Image, drawn: float) -> Image.Image:
    pixels = np.asarray(picture).reshape(-1, 3)
    turned = np.empty_like(pixels)
    for start in range(0, len(pixels), BLOCK):
        turned[start : start + BLOCK] = turn_hue(pixels[start : start + BLOCK], drawn)
    return Image.frombuffer("RGB", picture.size, turned, "raw", "RGB", 0, 1)


def turn_hue(pixels: NDArray[np.uint8], share: float) -> NDArray[np.int16]:
    """Colours with their hue turned by a share of the circle, in HSV.

    Value and chroma stay, and the channel in between moves along until it meets one of them; what
    is left of the turn moves the next channel. Whole thirds of the circle exchange the channels.

    Args:
        pixels: (N, 3) uint8 RGB.
        share: -1..1.

    Returns:
        (N, 3), 0..255, the nearest whole numbers.
    """
    thirds = round(3 * share)
    rest = 6 * share - 2 * thirds
    channels = np.roll(pixels.T.astype(np.int16, order="C"), thirds, axis=0)
    # A channel at a time: NumPy is several times slower along a first axis of three.
    red, green, blue = channels
    value = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    moved = np.rint((value - least) * np.float32(abs(rest))).astype(np.int16)
    falling, rising = value - moved, least + moved
    if rest < 0:
        green, blue = blue, green
    turned = np.empty_like(channels)
    for number, (channel, after, before) in enumerate(
        ((red, green, blue), (green, blue, red), (blue, red, green))
    ):
        there = np.where(after >= before, falling, rising)
        there += channel - after
        np.minimum(np.maximum(there, least), value, out=turned[number])
    if rest < 0:
        turned = turned[[0, 2, 1]]
    return turned.T


_CHANGES = {
    "brightness": _brighter,
    "contrast": _more_contrast,
    "saturation": _more_colour,
    "hue": _turned,
}
