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

from PIL import ExifTags, Image, ImageOps

from ssd34.data.image_io import MAX_PIXELS, as_rgb, opened, orientation_of

GAP = 1.5
"""Both savings stop at this many times the input; the filter does the rest exactly. Nearer to the
input, differences grow fast: see docs/decisions/0014-fast-preprocessing.md."""


class Square(NamedTuple):
    """A picture stretched to the network's input.

    Attributes:
        picture: Pillow image of mode RGB, side x side pixels.
        width: of the original, upright, pixels.
        height: of the original, upright, pixels.
    """

    picture: Image.Image
    width: int
    height: int


def read_square(source: Path | bytes, side: int, *, max_pixels: int = MAX_PIXELS) -> Square:
    """Decode a picture and stretch it.

    Args:
        source: a file, or the bytes of one.
        side: of the network's input, pixels.
        max_pixels: refuse a picture with more pixels, before decoding it.

    Raises:
        ImageError: as `ssd34.data.image_io.read_image`.
    """
    with opened(source, max_pixels=max_pixels) as image:
        width, height = image.size
        at_least = math.ceil(side * GAP)
        drafted = image.draft(None, (at_least, at_least))
        image.load()
        orientation = orientation_of(image)
        # The scaled size is rounded up; the original's edge may lie within its last pixel.
        box = drafted[1] if drafted else None
        picture = stretched(as_rgb(image), side, box=box)
    if orientation in range(2, 9):
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        picture = ImageOps.exif_transpose(picture)
    if orientation in range(5, 9):
        width, height = height, width
    return Square(picture, width, height)


def stretched(
    image: Image.Image, side: int, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """A decoded picture of mode RGB, or the part of it in `box` (xyxy, pixels), stretched."""
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=GAP)
