"""Detections drawn on a picture."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.detections import Detections

_GOLDEN_RATIO = 0.618033988749895


def colour_of(label: int) -> tuple[int, int, int]:
    """A bright colour for a class; neighbouring labels get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb((label * _GOLDEN_RATIO) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(image: NDArray[np.uint8], detections: Detections) -> Image.Image:
    """A copy of a picture with boxes, class names and scores.

    Args:
        image: (H, W, 3) uint8 RGB, the picture that the detections belong to.
        detections: drawn worst first, so that the best lie on top.
    """
    picture = Image.fromarray(image).copy()
    canvas = ImageDraw.Draw(picture)
    side = min(picture.size)
    line = max(1, round(side / 180))
    font = ImageFont.load_default(size=max(10, round(side / 28)))
    for found in reversed(list(detections)):
        colour = colour_of(found.label)
        canvas.rectangle(found.box, outline=colour, width=line)
        text = f"{found.name} {found.score:.0%}"
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * line + 4, bottom - top + 2 * line + 2
        x = min(max(0, found.box[0]), max(0, picture.width - width))
        y = found.box[1] - height if found.box[1] >= height else found.box[1]
        canvas.rectangle((x, y, x + width, y + height), fill=colour)
        ink = "black" if 299 * colour[0] + 587 * colour[1] + 114 * colour[2] > 128000 else "white"
        canvas.text((x + line + 2 - left, y + line + 1 - top), text, fill=ink, font=font)
    return picture
