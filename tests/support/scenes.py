"""Small evaluations whose every detail is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.results import Results
from ssd34.files.tree import FolderFiles
from tests.support.coco_oracle import data_of, random_case
from tests.support.datasets import sample as sample_of

SIDE = 200
BOX = (10, 10, 50, 50)
OFF = (30, 10, 70, 50)
"""Overlaps BOX by a third."""
FAR = (120, 120, 160, 160)


def sample(number, boxes=(), labels=(), *, crowd=(), side=SIDE):
    """Picture `number`; of its boxes those at the places `crowd` are crowds."""
    return sample_of(
        f"{number}.png", boxes, width=side, height=side, image_id=number, labels=labels,
        crowd=[k in crowd for k in range(len(boxes))],
    )  # fmt: skip


def result(image, category, box, score):
    left, top, right, bottom = box
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


def every_error(folder: Path, names=("cat", "dog")) -> tuple[Dataset, Results]:
    """One picture for each kind of error, with the pictures on disk.

    1 found, and found again; 2 box off; 3 wrong class; 4 both; 5 missed, and something where
    nothing is; 6 found; 7 in a crowd of cats, a cat and a dog; 8 empty, and something there.
    """
    samples = [sample(k, [BOX], [1]) for k in range(1, 6)]
    samples += [sample(6, [BOX], [2]), sample(7, [(0, 0, 100, 100)], [1], crowd=[0]), sample(8)]
    results = [
        result(1, 3, BOX, 0.9), result(1, 3, (12, 12, 52, 52), 0.8), result(2, 3, OFF, 0.7),
        result(3, 7, BOX, 0.6), result(4, 7, OFF, 0.5), result(5, 3, FAR, 0.4),
        result(6, 7, BOX, 0.85), result(7, 3, (10, 10, 30, 30), 0.75),
        result(7, 7, (10, 10, 30, 30), 0.65), result(8, 3, BOX, 0.3),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for one in samples:
        pixels = np.full((SIDE, SIDE, 3), 60 + 20 * one.image_id, np.uint8)
        Image.fromarray(pixels).save(folder / one.file_name)
    labels = LabelSet(names, (3, 7))
    return Dataset("scene", labels, tuple(samples), FolderFiles(folder)), Results.of(results)


def random_scene(seed: int) -> tuple[Dataset, Results]:
    """Several pictures and classes with near and far detections, crowds, equal scores."""
    values, results = random_case(seed)
    values["categories"] = sorted(values["categories"], key=lambda one: one["id"])
    return data_of(values), Results.of(results)
