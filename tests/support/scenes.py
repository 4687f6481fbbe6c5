"""Small evaluations whose every detail is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset, Sample
from ssd34.evaluate.results import Results
from ssd34.files.tree import FolderFiles

SIDE = 200
BOX = (10, 10, 50, 50)
OFF = (30, 10, 70, 50)
"""Overlaps BOX by a third."""
FAR = (120, 120, 160, 160)


def sample(number, boxes=(), labels=(), *, crowd=(), side=SIDE):
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    size = corners[:, 2:] - corners[:, :2]
    return Sample(
        file_name=f"{number}.png",
        image_id=number,
        width=side,
        height=side,
        boxes=corners,
        labels=np.array(labels, np.int64),
        areas=size.prod(axis=1).astype(np.float64),
        crowd=np.array([k in crowd for k in range(len(corners))], bool),
        difficult=np.zeros(len(corners), bool),
    )


def result(image, category, box, score):
    left, top, right, bottom = box
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "score": score,
    }


def every_error(folder: Path, names=("cat", "dog")) -> tuple[Dataset, Results]:
    """One picture for each kind of error, with the pictures on disk.

    1 found, and found again; 2 box off; 3 wrong class; 4 both; 5 missed, and something where
    nothing is; 6 found; 7 in a crowd of cats, a cat and a dog; 8 empty, and something there.
    """
    samples = [sample(k, [BOX], [1]) for k in range(1, 6)]
    samples += [sample(6, [BOX], [2]), sample(7, [(0, 0, 100, 100)], [1], crowd=[0]), sample(8)]
    results = [
        result(1, 3, BOX, 0.9),
        result(1, 3, (12, 12, 52, 52), 0.8),
        result(2, 3, OFF, 0.7),
        result(3, 7, BOX, 0.6),
        result(4, 7, OFF, 0.5),
        result(5, 3, FAR, 0.4),
        result(6, 7, BOX, 0.85),
        result(7, 3, (10, 10, 30, 30), 0.75),
        result(7, 7, (10, 10, 30, 30), 0.65),
        result(8, 3, BOX, 0.3),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for one in samples:
        pixels = np.full((SIDE, SIDE, 3), 60 + 20 * one.image_id, np.uint8)
        Image.fromarray(pixels).save(folder / one.file_name)
    labels = LabelSet(names, (3, 7))
    return Dataset("scene", labels, tuple(samples), FolderFiles(folder)), Results.of(results)


def random_scene(seed: int) -> tuple[Dataset, Results]:
    """Several pictures and classes with near and far detections, crowds, equal scores."""
    dice = np.random.default_rng(seed)
    samples, results = [], []
    for number in range(1, int(dice.integers(3, 9))):
        boxes, labels = [], []
        for _ in range(int(dice.integers(0, 6))):
            size = dice.integers(8, 90, 2)
            corner = dice.integers(0, SIDE - size)
            boxes.append([*corner, *(corner + size)])
            labels.append(int(dice.integers(1, 4)))
        crowd = [k for k in range(len(boxes)) if dice.random() < 0.15]
        samples.append(sample(number, boxes, labels, crowd=crowd))
        for _ in range(int(dice.integers(0, 25))):
            if boxes and dice.random() < 0.8:
                box = np.array(boxes[int(dice.integers(len(boxes)))], float)
                box += np.round(dice.normal(0, dice.choice([0, 3, 12]), 4))
                box[2:] = np.maximum(box[2:], box[:2] + 2)
            else:
                corner = dice.integers(0, 120, 2)
                box = np.array([*corner, *(corner + dice.integers(5, 80, 2))], float)
            category = int(dice.choice([3, 7, 11]))
            results.append(result(number, category, box.tolist(), float(dice.integers(1, 40)) / 40))
    label_set = LabelSet(("cat", "dog", "cow"), (3, 7, 11))
    return Dataset("random", label_set, tuple(samples), FolderFiles(Path("nowhere"))), Results.of(
        results
    )
