"""What training does to a picture: expand, crop, flip, resize in one resample, and change colours.
All is drawn before the picture is read, as it decides how much of it has to be decoded.

Source: SSD paper section 3.6 and the training benchmark's figures. For colours these are those of
Pillow's `ImageEnhance` and of a turn in HSV; results are the same, reached with fewer passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageStat

from ssd34.core.boxes import Boxes, clip, pairwise_iou
from ssd34.core.preprocess import MEAN
from ssd34.images.reduced import FACTORS, GAP
from ssd34.setting_types import Share, check_fields

FILL = tuple(round(255 * value) for value in MEAN)
"""Colour around a picture that was zoomed out: the ImageNet mean."""

COLOURS = ("brightness", "contrast", "saturation", "hue")

SMALLEST = 0.1
"""A box narrower or lower than this after all, in pixels, is left out."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much to vary the pictures.

    Attributes:
        expand: share of pictures that are zoomed out.
        largest_expand: largest factor of zooming out, in each direction.
        crop: whether to draw IoU-constrained crops.
        zoom: share of pictures of which only the surroundings of one object are shown; small
            objects are then also seen large.
        flip: share of pictures that are mirrored.
        brightness, contrast, saturation: factors are drawn from 1 +- this.
        hue: shift drawn from +- this share of the colour circle.
    """

    expand: Share = 0.0
    largest_expand: Annotated[float, Meta(ge=1, le=16)] = 3.0
    crop: bool = True
    zoom: Share = 0.0
    flip: Share = 0.5
    brightness: Share = 0.125
    contrast: Share = 0.5
    saturation: Share = 0.5
    hue: Annotated[float, Meta(ge=0, le=0.5)] = 0.05

    def __post_init__(self) -> None:
        check_fields(self)


class Variation(NamedTuple):
    """What happens to one picture.

    Attributes:
        size: side of the result, pixels.
        window: (4,) float64 xyxy: what is shown, in pixels of the original; may reach beyond it.
        inside: (4,) float64: the part of it that lies in the picture.
        flipped: whether it is mirrored.
        changes: of its colours.
        boxes: (N, 4) float32 xyxy, fractions of the result.
        kept: (N,) int64: which of the original boxes they are.
    """

    size: int
    window: NDArray[np.float64]
    inside: Boxes
    flipped: bool
    changes: tuple[Change, ...]
    boxes: NDArray[np.float32]
    kept: NDArray[np.int64]

    @property
    def factor(self) -> int:
        """The window can be taken from the picture at 1/factor of its size: it still has `GAP`
        times the pixels of the result, in both directions."""
        extent = self.window[2:] - self.window[:2]
        allowed = extent.min() / (GAP * self.size)
        return max((factor for factor in FACTORS if factor <= allowed), default=1)


def draw_variation(
    width: int,
    height: int,
    boxes: NDArray[np.float32],
    *,
    size: int,
    options: Augmentation,
    rng: Generator,
    ignored: NDArray[np.bool_],
    labels: NDArray[np.int64],
) -> Variation:
    """A random variation of a picture, width x height pixels, and its boxes (N, 4) float32 xyxy in
    pixels, to a square of `size` pixels.

    Crops need not respect boxes that are `ignored`, (N,) bool; these are kept as far as they are
    seen, wherever their centre is. What to zoom in on is chosen by the boxes' classes, (N,).
    """
    window = np.array([0, 0, width, height], np.float64)
    if rng.random() < options.expand:
        window = expand(width, height, options.largest_expand, rng)
    kept = np.arange(len(boxes))
    respected = ~ignored
    if options.zoom and respected.any() and rng.random() < options.zoom:
        window = zoom(width, height, boxes[respected], labels[respected], rng)
        kept = np.flatnonzero(hold_centres(window, boxes) | ~respected)
    elif options.crop:
        window, kept = crop(window, boxes, respected, rng)
    extent = np.tile(window[2:] - window[:2], 2)
    shown = (boxes[kept] - np.tile(window[:2], 2)) / extent
    shown = clip(shown, width=1, height=1).astype(np.float32)
    visible = ((shown[:, 2:] - shown[:, :2]) * size >= SMALLEST).all(axis=1)
    shown, kept = shown[visible], kept[visible]
    flipped = rng.random() < options.flip
    if flipped:
        shown = np.stack([1 - shown[:, 2], shown[:, 1], 1 - shown[:, 0], shown[:, 3]], axis=1)
    return Variation(
        size=size,
        window=window,
        inside=clip(window, width=width, height=height),
        flipped=flipped,
        changes=draw_changes({kind: getattr(options, kind) for kind in COLOURS}, rng),
        boxes=shown.astype(np.float32),
        kept=kept,
    )


def apply_variation(
    picture: Image.Image, variation: Variation, *, factor: int
) -> NDArray[np.uint8]:
    """The variation, (S, S, 3) uint8 RGB, of a picture of mode RGB at 1/factor of the original's
    size, factor being `Variation.factor` or less."""
    size, window, inside = variation.size, variation.window, variation.inside
    scale = size / (window[2:] - window[:2])
    target = np.rint((inside - np.tile(window[:2], 2)) * np.tile(scale, 2)).astype(int)
    target[2:] = np.maximum(target[2:], target[:2] + 1)
    result = picture.resize(
        (int(target[2] - target[0]), int(target[3] - target[1])),
        Image.Resampling.BILINEAR,
        box=tuple(inside / factor),
    )
    if result.size != (size, size):
        canvas = Image.new("RGB", (size, size), FILL)
        canvas.paste(result, (int(target[0]), int(target[1])))
        result = canvas
    if variation.flipped:
        result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(apply_changes(result, variation.changes))


def expand(width: int, height: int, largest: float, rng: Generator) -> NDArray[np.float64]:
    """A window around the whole picture, up to `largest` times its size."""
    factor = rng.uniform(1, largest)
    left = -rng.uniform(0, width * (factor - 1))
    top = -rng.uniform(0, height * (factor - 1))
    return np.array([left, top, left + width * factor, top + height * factor])


def crop(
    window: NDArray[np.float64],
    boxes: NDArray[np.float32],
    respected: NDArray[np.bool_],
    rng: Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A random part of the window and the boxes that count in it: those whose centre it holds, and
    all that are not respected. With equal chance the whole window is kept, or a part is asked for
    whose IoU with **all** boxes exceeds a bound; one attempt per draw, until one succeeds."""
    everything = np.arange(len(boxes))
    if not respected.any():
        return window, everything
    extent = window[2:] - window[:2]
    while True:
        bound = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)[rng.integers(7)]
        if bound is None:
            return window, everything
        w, h = rng.uniform(0.3, 1, 2)
        if not 0.5 <= w / h <= 2:
            continue
        left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
        corners = np.array([left, top, left + w, top + h])
        part = np.tile(window[:2], 2) + corners * np.tile(extent, 2)
        if bound > 0 and not (pairwise_iou(boxes[respected], part[None]) > bound).all():
            continue
        inside = hold_centres(part, boxes)
        if inside[respected].any():
            return part, np.flatnonzero(inside | ~respected)


def zoom(
    width: int, height: int, boxes: NDArray[np.float32], labels: NDArray[np.int64], rng: Generator
) -> NDArray[np.float64]:
    """A window in the picture around one of the boxes, (N, 4) xyxy in pixels, N > 0, of a class
    drawn from those in it.

    The object's longer side takes a quarter to three quarters of the window, whose sides are at
    least a fifth of the picture's.
    """
    label = rng.choice(np.unique(labels))
    box = boxes[rng.choice(np.flatnonzero(labels == label))].astype(np.float64)
    left, top, right, bottom = clip(box, width=width, height=height)
    side = max(right - left, bottom - top) / rng.uniform(0.25, 0.75)
    stretch = np.exp(rng.uniform(-0.4, 0.4))
    sides = []
    for low, high, extent, wanted in (
        (left, right, width, side * stretch),
        (top, bottom, height, side / stretch),
    ):
        span = min(max(wanted, high - low, extent / 5), extent)
        most = min(low, extent - span)
        # One rounding may put them the wrong way round.
        first = rng.uniform(min(max(0.0, high - span), most), most)
        sides.append((first, first + span))
    return np.array(sides).T.reshape(4)


def hold_centres(window: NDArray[np.float64], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their centre in the window (4,)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((centres > window[:2]) & (centres < window[2:])).all(axis=1))


BLOCK = 32768
"""Pixels at once, so that what is computed on the way stays in the cache: half the time."""


Change = tuple[str, float]
"""One change: its name, and how much it was drawn to be, -amount..amount."""


def draw_changes(amounts: dict[str, float], rng: Generator) -> tuple[Change, ...]:
    """Changes in random order, each drawn from +- its amount; those of amount 0 are left out."""
    kinds = list(amounts)
    order = [kinds[index] for index in rng.permutation(len(kinds))]
    return tuple((k, rng.uniform(-amounts[k], amounts[k])) for k in order if amounts[k])


def apply_changes(picture: Image.Image, changes: tuple[Change, ...]) -> Image.Image:
    """A picture of mode RGB with its colours changed, one after the other."""
    for kind, drawn in changes:
        if kind == "brightness":
            picture = _away_from(0, picture, 1 + drawn)
        elif kind == "contrast":
            mean = int(ImageStat.Stat(picture.convert("L")).mean[0] + 0.5)
            picture = _away_from(mean, picture, 1 + drawn)
        elif kind == "saturation":
            picture = ImageEnhance.Color(picture).enhance(1 + drawn)
        else:
            picture = _turned(picture, drawn)
    return picture


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
    """Red, green and blue (3, N) uint8 with their hue turned by a share, -1..1, of the circle, in
    HSV: the nearest whole numbers, 0..255.

    Value and chroma stay, and the channel in between moves along until it meets one of them; what
    is left of the turn moves the next channel. Whole thirds of the circle exchange the channels.
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
