"""Pictures with their ground truth and with what was detected, for the page."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.boxes import Boxes, xyxy_from_xywh
from ssd34.datasets.dataset import Dataset
from ssd34.errors import ImageError
from ssd34.evaluate.analysis.pictures import Picture
from ssd34.evaluate.results import Results
from ssd34.images.draw import Colour, labelled_box

SIDE = 480
"""Pixels of the longer side; small pictures are enlarged, so that labels do not cover them."""
RIGHT: Colour = (0, 140, 220)
WRONG: Colour = (235, 110, 20)
CROWD: Colour = (150, 150, 150)
_QUALITY = 82
_TRIES = 3
_LABELLED = 28


@dataclass(frozen=True)
class Exhibit:
    """A picture of the gallery.

    Attributes:
        picture: how it went.
        truth: JPEG with the boxes that should be found.
        detections: JPEG with the boxes that were detected.
        width: of both, pixels.
        height: of both, pixels.
    """

    picture: Picture
    truth: bytes
    detections: bytes
    width: int
    height: int


Drawn = tuple[Boxes, str, Colour]
"""Box (4,) xyxy in pixels of the stored picture, label, colour."""


def exhibits(
    chosen: Iterable[Picture],
    dataset: Dataset,
    results: Results,
    *,
    limit: int,
) -> tuple[Exhibit, ...]:
    """The first `limit` of the pictures that can be read."""
    shown: list[Exhibit] = []
    for tried, picture in enumerate(chosen):
        if len(shown) == limit or tried == _TRIES * limit:
            break
        try:
            image = dataset.read(dataset.samples[picture.sample])
        except ImageError:  # it was reported when it was evaluated
            continue
        truth = _draw(image, _truth(picture, dataset))
        shown.append(
            Exhibit(
                picture=picture,
                truth=_jpeg(truth),
                detections=_jpeg(_draw(image, _detected(picture, dataset, results))),
                width=truth.width,
                height=truth.height,
            )
        )
    return tuple(shown)


def _truth(picture: Picture, dataset: Dataset) -> list[Drawn]:
    sample = dataset.samples[picture.sample]
    drawn: list[Drawn] = []
    for box, label, found in zip(sample.boxes, sample.labels, picture.boxes_found, strict=True):
        name = dataset.labels.name(int(label))
        colour = CROWD if found is None else RIGHT if found else WRONG
        drawn.append((box, name, colour))
    return drawn


def _detected(picture: Picture, dataset: Dataset, results: Results) -> list[Drawn]:
    label_of = dataset.labels.label_of_category()
    drawn: list[Drawn] = []
    for index, right in reversed(picture.detections):  # the best lie on top
        name = dataset.labels.name(label_of[int(results.category_ids[index])])
        box = xyxy_from_xywh(results.boxes_xywh[index])
        drawn.append((box, f"{name} {results.scores[index]:.0%}", RIGHT if right else WRONG))
    return drawn


def _draw(image: NDArray[np.uint8], boxes: Iterable[Drawn]) -> Image.Image:
    height, width = image.shape[:2]
    scale = SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image).resize(size)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    limit = np.array([picture.width - 1, picture.height - 1] * 2)
    for box, text, colour in boxes:
        left, top, right, bottom = np.clip(box * scale, 0, limit).tolist()
        # In a crowded picture labels of small boxes would hide everything else.
        label = text if bottom - top >= _LABELLED and right - left >= _LABELLED else ""
        labelled_box(canvas, (left, top, right, bottom), label, colour=colour, line=2, font=font)
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="jpeg", quality=_QUALITY)
    return file.getvalue()
