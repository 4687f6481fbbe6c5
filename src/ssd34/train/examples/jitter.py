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

BLOCK = 32768
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
    channels = np.stack([np.asarray(band).reshape(-1) for band in picture.split()])
    for start in range(0, channels.shape[1], BLOCK):
        block = channels[:, start : start + BLOCK]
        block[:] = turn_hue(block, drawn)
    bands = [Image.frombuffer("L", picture.size, row, "raw", "L", 0, 1) for row in channels]
    return Image.merge("RGB", bands)


def turn_hue(channels: NDArray[np.uint8], share: float) -> NDArray[np.int16]:
    """Colours with their hue turned by a share of the circle, in HSV.

    Value and chroma stay, and the channel in between moves along until it meets one of them; what
    is left of the turn moves the next channel. Whole thirds of the circle exchange the channels.

    Args:
        channels: (3, N) uint8: red, green, blue.
        share: -1..1.

    Returns:
        (3, N), 0..255, the nearest whole numbers.
    """
    thirds = round(3 * share)
    rest = 6 * share - 2 * thirds
    # A channel at a time: NumPy is several times slower along a first axis of three.
    red, green, blue = np.roll(channels.astype(np.int16), thirds, axis=0)
    value = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    moved = np.rint((value - least) * np.float32(abs(rest))).astype(np.int16)
    rising = least + moved
    change = value - moved - rising
    order = [0, 1, 2] if rest >= 0 else [0, 2, 1]
    colours = [(red, green, blue)[number] for number in order]
    turned = np.empty(channels.shape, np.int16)
    for number, channel in enumerate(colours):
        after, before = colours[(number + 1) % 3], colours[(number + 2) % 3]
        there = change * (after >= before)  # falling there, rising elsewhere
        there += rising
        there += channel
        there -= after
        np.minimum(np.maximum(there, least, out=there), value, out=turned[order[number]])
    return turned


_CHANGES = {
    "brightness": _brighter,
    "contrast": _more_contrast,
    "saturation": _more_colour,
    "hue": _turned,
}
