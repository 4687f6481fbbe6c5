"""Boxes drawn on pictures, and pictures put together in a grid."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.detections import Detections
from ssd34.errors import ImageError
from ssd34.images.read import Picture, load_picture

_GOLDEN_RATIO = 0.618033988749895

_GAP = 8
_TEXT = 13
_LINE = 17
_LONGEST = 80
"""Characters of a label."""

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

Box = tuple[float, float, float, float]
"""xyxy, pixels."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Words = tuple[str | Colour, str]
"""A line of text and its colour."""


LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
"""Pixels that a format holds in one direction."""


def check_side(image: Image.Image, form: str, *, what: object, remedy: str) -> None:
    """ImageError for a picture that a format cannot hold."""
    most = LONGEST_SIDE.get(form, max(image.size))
    if max(image.size) > most:
        raise ImageError(
            f"{what}: {image.width} x {image.height} pixels are more than {form} holds, {most} in "
            f"a direction; {remedy}"
        )


def choose_colour(label: int) -> Colour:
    """A bright colour for a class; neighbouring labels get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb((label * _GOLDEN_RATIO) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache(maxsize=4)
def _font(size: int) -> Font:
    """The usual font, unpacked once."""
    return ImageFont.load_default(size=size)


def draw(
    image: Picture, detections: Detections, *, tracks: Sequence[int] | None = None
) -> Image.Image:
    """A copy of a picture of any kind with its detections' boxes, class names and scores, the best
    on top: a Pillow image of mode RGB; ImageError where the picture cannot be read. With tracks,
    the number of each detection's, these give the colours. No label hides another while a corner
    of its box is free."""
    picture = load_picture(image).copy()
    canvas = ImageDraw.Draw(picture)
    side = min(picture.size)
    line = max(1, round(side / 180))
    font = _font(max(10, round(side / 28)))
    numbers = [found.label for found in detections] if tracks is None else tracks
    for number, found in reversed(list(zip(numbers, detections, strict=True))):
        canvas.rectangle(found.box, outline=choose_colour(number), width=line)
    taken: list[Box] = []
    for number, found in zip(numbers, detections, strict=True):
        text = f"{found.name} {found.score:.0%}"
        if tracks is not None:
            text = f"{number} {text}"
        colour = choose_colour(number)
        _draw_label(canvas, found.box, text, colour=colour, line=line, font=font, taken=taken)
    return picture


def draw_dashed_box(
    canvas: ImageDraw.ImageDraw,
    box: Box,
    *,
    colour: Colour,
    line: int,
) -> None:
    """Draw the outline of a box, xyxy in pixels, in dashes of a width of `line` pixels; they are
    six times as long, as are the gaps."""
    left, top, right, bottom = box
    dash = 6 * line
    for x in np.arange(left, right, 2 * dash):
        for y in (top, bottom):
            canvas.line((x, y, min(x + dash, right), y), fill=colour, width=line)
    for y in np.arange(top, bottom, 2 * dash):
        for x in (left, right):
            canvas.line((x, y, x, min(y + dash, bottom)), fill=colour, width=line)


def draw_labelled_box(
    canvas: ImageDraw.ImageDraw,
    box: Box,
    text: str,
    *,
    colour: Colour,
    line: int,
    font: Font,
) -> None:
    """Draw a box, xyxy in pixels, with lines of `line` pixels, and its label, if it has one, above
    it, or inside where there is no room."""
    canvas.rectangle(box, outline=colour, width=line)
    if text:
        _draw_label(canvas, box, text, colour=colour, line=line, font=font, taken=[])


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    box: Box,
    text: str,
    *,
    colour: Colour,
    line: int,
    font: Font,
    taken: list[Box],
) -> None:
    """Draw the label of a box, and add its place to those that are taken. Of a long one, whose
    drawing would take seconds, beginning and end."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 13]}...{text[-10:]}"
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * line + 4, bottom - top + 2 * line + 2
    x = min(max(0, box[0]), max(0, canvas.im.size[0] - width))
    usual = box[1] - height if box[1] >= height else box[1]

    def is_free(y: float) -> bool:
        inside = 0 <= y <= canvas.im.size[1] - height
        return inside and not any(
            x < right and left < x + width and y < bottom and top < y + height
            for left, top, right, bottom in taken
        )

    places = (usual, box[1], box[3] - height, box[3])
    y = next((place for place in places if is_free(place)), usual)
    taken.append((x, y, x + width, y + height))
    canvas.rectangle((x, y, x + width, y + height), fill=colour)
    ink = "black" if 299 * colour[0] + 587 * colour[1] + 114 * colour[2] > 128000 else "white"
    canvas.text((x + line + 2 - left, y + line + 1 - top), text, fill=ink, font=font)


def draw_grid(
    tiles: Sequence[Image.Image],
    captions: Sequence[Sequence[Words]] = (),
    *,
    head: Sequence[Sequence[Words]],
    paper: str,
    columns: int | None = None,
) -> Image.Image:
    """Tiles of one size, at least one, in rows, as many as columns unless told otherwise; two
    columns at least, for the head: lines above all, each of words beside each other. Captions are
    the lines below each tile; without there is no room for them."""
    columns = max(2, columns or math.ceil(math.sqrt(len(tiles))))
    font = ImageFont.load_default(size=_TEXT)
    below = _LINE * max(map(len, captions), default=0)
    width, height = tiles[0].width + _GAP, tiles[0].height + below + _GAP
    top = _LINE * len(head) + _GAP
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + top), paper)
    canvas = ImageDraw.Draw(sheet)
    for row, words in enumerate(head):
        x = float(_GAP)
        for colour, text in words:
            canvas.text((x, _GAP // 2 + row * _LINE), text, fill=colour, font=font)
            x += font.getlength(text) + 2 * _GAP
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, upper = _GAP + column * width, top + row * height
        sheet.paste(tile, (left, upper))
        for line, (colour, text) in enumerate(captions[number] if captions else ()):
            place = (left, upper + tile.height + line * _LINE)
            canvas.text(place, text, fill=colour, font=font)
    return sheet


def wrap(text: str, width: float) -> list[str]:
    """Lines of a caption, at most `width` pixels wide; a longer word lacks its middle."""
    font = ImageFont.load_default(size=_TEXT)
    lines = [""]
    for word in "".join(c if c.isprintable() else " " for c in text).split():
        kept, short = len(word), word
        while kept > 2 and font.getlength(short) > width:
            kept -= 1
            short = f"{word[: kept // 2]}...{word[-(kept // 2) :]}"
        longer = f"{lines[-1]} {short}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(short)
    return lines
