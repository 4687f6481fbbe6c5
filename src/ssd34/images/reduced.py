"""Pictures at the size that the network takes, read in less time than the exact way.

Savings, all of them only where a picture is much larger than the network's input:

- A JPEG is decoded at 1/2, 1/4 or 1/8 of its size: the decoder leaves out the work, not only the
  pixels.
- What is still much larger is averaged in whole steps before the bilinear filter.
- The EXIF orientation is applied to the small picture.

A picture both of whose sides are less than three times the input's, and that EXIF does not turn,
comes out bit for bit as the exact way gives it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ssd34.images import read as reading
from ssd34.images.read import MAX_PIXELS

GAP = 1.5
"""Both savings stop at this many times the input; the filter does the rest exactly. Nearer to the
input, differences grow fast: see docs/decisions/0014-fast-preprocessing.md."""

FACTORS = (1, 2, 4, 8)
"""A JPEG can be decoded at 1/factor of its size."""


class Reduced(NamedTuple):
    """A Pillow image of mode RGB, made smaller, and the upright original's size in pixels."""

    picture: Image.Image
    width: int
    height: int


def read_square(source: Path | bytes, side: int, *, max_pixels: int = MAX_PIXELS) -> Reduced:
    """A picture, a file or the bytes of one, decoded and stretched to side x side pixels;
    ImageError as `ssd34.images.read.read_image`."""
    with reading.open_picture(source, max_pixels=max_pixels) as image:
        width, height = image.size
        at_least = math.ceil(side * GAP)
        drafted = image.draft(None, (at_least, at_least))
        reading.load(image)
        orientation = reading.read_orientation(image)
        # The scaled size is rounded up; the original's edge may lie within its last pixel.
        box = drafted[1] if drafted else None
        picture = stretch(reading.convert_to_rgb(image), side, box=box)
    picture = reading.turn_upright(picture, orientation)
    if orientation in range(5, 9):
        width, height = height, width
    return Reduced(picture, width, height)


def stretch(
    image: Image.Image, side: int, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """A decoded picture of mode RGB, or the part of it in `box` (xyxy, pixels), stretched."""
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=GAP)


def read_reduced(source: Path | bytes, factor: int, *, max_pixels: int = MAX_PIXELS) -> Reduced:
    """A picture, a file or the bytes of one, at 1/factor of its size, one of `FACTORS`, sides
    rounded up: by the JPEG decoder, else by averaging; ImageError as
    `ssd34.images.read.read_image`. Training uses it where it knows which part of a picture it
    needs."""
    with reading.open_picture(source, max_pixels=max_pixels) as image:
        width, height = image.size
        drafted = _draft(image, factor)
        picture = reading.decode_upright(image)
        if not drafted:
            return Reduced(picture.reduce(factor) if factor > 1 else picture, *picture.size)
        if reading.read_orientation(image) in range(5, 9):
            width, height = height, width
    return Reduced(picture, width, height)


def _draft(image: Image.Image, factor: int) -> bool:
    """Let the decoder give a picture at 1/factor of its size, if it can."""
    width, height = image.size
    if factor == 1 or image.format not in ("JPEG", "MPO") or min(width, height) < factor:
        return False
    if reading.read_orientation(image) in range(2, 9) and (width % factor or height % factor):
        # Turned, the last pixel of the scaled picture, which is partly beyond the edge, could
        # become the first.
        return False
    return image.draft(None, (width // factor, height // factor)) is not None
