"""The training data as the network sees it, and how many objects no default box overlaps much."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssd34.core.boxes import pairwise_iou, xyxy_from_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Problem
from ssd34.errors import TrainingError
from ssd34.images.draw import draw_grid, draw_labelled_box
from ssd34.train.examples.example import Made, Unreadable
from ssd34.train.examples.loader import Loader
from ssd34.train.examples.matcher import MATCH_IOU

SIDES = (0.0, 8.0, 16.0, 32.0, 96.0, math.inf)
"""Bounds of an object's size: the side of a square of its area, in pixels of the input. COCO calls
what is below 32 small and what is above 96 large."""

COUNTED = 300
"""Pictures over which objects are counted, unless more are shown or an epoch has fewer."""

_PAPER = "#1c1c1e"
_MATCHED, _OBJECT = (255, 214, 10), (48, 209, 88)
_FORCED, _IGNORED = (255, 69, 58), (142, 142, 147)


@dataclass(frozen=True)
class SizeRow:
    """Objects of one range of sizes.

    Attributes:
        side_from, side_to: pixels of the input.
        objects: how many there were.
        forced: those that no default box overlaps by more than 0.5, so that only the best one,
            forced, learns them; with the matcher ``"atss"`` those that at most one learns.
        default_boxes: how many learn one object, on average.
    """

    side_from: float
    side_to: float
    objects: int
    forced: int
    default_boxes: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; no upper bound is null."""
        return vars(self) | {"side_to": None if math.isinf(self.side_to) else self.side_to}


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a look at the data shows.

    Attributes:
        sheet: some pictures with their boxes.
        pictures: over how many objects were counted, one that is drawn again counting again.
        sides: the smallest and the largest input size, pixels.
        rows: the counts by size.
        forced: what `SizeRow.forced` counts, in words.
        problems: pictures that could not be read.
    """

    sheet: Image.Image
    pictures: int
    sides: tuple[int, int]
    rows: tuple[SizeRow, ...]
    forced: str
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, without the sheet."""
        return {"pictures": self.pictures, "input_sizes": list(self.sides),
                "sizes": [row.to_dict() for row in self.rows]}  # fmt: skip


def preview(loader: Loader, labels: LabelSet, *, shown: int) -> Preview:
    """Make the first pictures that training would make, and look at them; up to `shown` of them are
    on the sheet. TrainingError where no picture can be read."""
    sizes: list[NDArray[np.float64]] = []
    forced: list[NDArray[np.bool_]] = []
    learners: list[NDArray[np.float64]] = []
    tiles: list[Image.Image] = []
    problems: list[Problem] = []
    sides: list[int] = []
    adaptive = loader.examples.options.matcher == "atss"
    # The pictures of one epoch, in training's order.
    batches = itertools.islice(loader.draws(0), loader.batches_per_epoch)
    draws = itertools.chain.from_iterable(batches)
    for made in map(loader.examples.make, itertools.islice(draws, max(shown, COUNTED))):
        if isinstance(made, Unreadable):
            problems.append(made.problem)
            continue
        side = made.image.shape[0]
        sides.append(side)
        corners = xyxy_from_cxcywh(loader.examples.default_boxes(side)).astype(np.float32)
        extent = (made.boxes[:, 2:] - made.boxes[:, :2]).astype(np.float64) * side
        best = pairwise_iou(made.boxes, corners).max(axis=1) if len(made.boxes) else np.zeros(0)
        # (N, A): which default box learns which object.
        learned = made.matches.objects == np.arange(len(made.boxes))[:, None]
        alone = learned.sum(axis=1) <= 1 if adaptive else best <= MATCH_IOU
        sizes.append(np.sqrt(extent.prod(axis=1)))
        forced.append(alone)
        learners.append(learned.sum(axis=1).astype(np.float64))
        if len(tiles) < shown:
            tiles.append(_tile(made, corners, learned, alone, labels, side=max(300, sides[0])))
    if not tiles:
        raise TrainingError(f"no picture could be read; the first: {problems[0]}")
    words = "one or none learns it" if adaptive else "none overlaps it by 0.5"
    legend = [
        (_OBJECT, "object, and how many default boxes learn it"),
        (_FORCED, words),
        (_MATCHED, "those default boxes"),
        (_IGNORED, "ignored"),
    ]
    return Preview(
        sheet=draw_grid(tiles, head=[legend], paper=_PAPER),
        pictures=len(sides),
        sides=(min(sides), max(sides)),
        rows=_rows(np.concatenate(sizes), np.concatenate(forced), np.concatenate(learners)),
        forced=words,
        problems=tuple(dict.fromkeys(problems)),
    )


def _rows(
    sizes: NDArray[np.float64], forced: NDArray[np.bool_], learners: NDArray[np.float64]
) -> tuple[SizeRow, ...]:
    rows = []
    for low, high in itertools.pairwise(SIDES):
        within = (sizes >= low) & (sizes < high)
        mean = float(learners[within].mean()) if within.any() else 0.0
        rows.append(SizeRow(low, high, int(within.sum()), int(forced[within].sum()), mean))
    return tuple(rows)


def _tile(
    made: Made,
    corners: NDArray[np.float32],
    learned: NDArray[np.bool_],
    forced: NDArray[np.bool_],
    labels: LabelSet,
    *,
    side: int,
) -> Image.Image:
    """A picture, its objects and the default boxes that learn them, drawn at a side in pixels."""
    picture = Image.fromarray(made.image).resize((side, side), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for box in corners[learned.any(axis=0)]:
        canvas.rectangle(tuple((box * side).tolist()), outline=_MATCHED)
    for box in made.ignored_boxes:
        canvas.rectangle(tuple((box * side).tolist()), outline=_IGNORED, width=2)
    for box, label, alone, count in zip(
        made.boxes, made.labels, forced, learned.sum(axis=1), strict=True
    ):
        colour = _FORCED if alone else _OBJECT
        text = f"{labels.name(int(label))} {count}"
        draw_labelled_box(canvas, (box * side).tolist(), text, colour=colour, line=2, font=font)
    return picture
