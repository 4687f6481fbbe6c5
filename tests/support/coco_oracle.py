"""Random data sets with detections, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd34.datasets.coco import read_coco
from ssd34.datasets.contents import Contents
from ssd34.files.tree import FolderFiles
from tests.conftest import COCO_NUMBERS as NAMES
from tests.support.datasets import coco_box, coco_image

CATEGORIES = [{"id": 11, "name": "cross"}, {"id": 3, "name": "square"}, {"id": 7, "name": "disc"}]


class AllThere(FolderFiles):
    """Pictures that nobody looks at."""

    def exists(self, name):
        return bool(name)

    def path(self, name):
        raise AssertionError(name)


def quarter_pixels(values):
    """Makes overlaps that lie right on a threshold."""
    return (np.round(np.asarray(values) * 4) / 4).tolist()


def random_case(seed):
    """Annotations and results; each seed has its own mix of the awkward things."""
    dice = np.random.default_rng(seed)
    size = 320
    # Boxes as files have them: on a grid, or with two decimals.
    tidy = quarter_pixels if seed % 2 else lambda values: np.round(values, 2).tolist()
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    box: Any
    for number in range(1, int(dice.integers(2, 7)) + 1):
        image_id = number * 10 + seed
        file_name = f"{number}.jpg"
        images.append(coco_image(id=image_id, file_name=file_name, width=size, height=size))
        without_boxes = dice.random() < 0.2
        for _ in range(0 if without_boxes else int(dice.integers(1, 8))):
            side = np.exp(dice.uniform(np.log(4), np.log(200), 2))
            corner = dice.uniform(0, size - side)
            box = tidy([*corner, *side])
            annotations.append(coco_box(
                *box, id=len(annotations) + 1, image_id=image_id,
                category_id=int(dice.choice([3, 7, 11])),
                area=float(box[2] * box[3] * dice.choice([1, 0.6])),
                iscrowd=int(dice.random() < 0.15),
            ))  # fmt: skip
        many = 150 if seed % 5 == 0 else 12
        own = [a for a in annotations if a["image_id"] == image_id]
        for _ in range(int(dice.integers(0, many))):
            if own and dice.random() < 0.7:
                near = own[int(dice.integers(len(own)))]
                jitter = dice.choice([0, 0.02, 0.1, 0.3])
                box = np.array(near["bbox"])
                box = box + dice.normal(0, jitter, 4) * np.tile(box[2:], 2)
                category = near["category_id"] if dice.random() < 0.85 else 3
            else:
                box = np.concatenate([dice.uniform(0, 200, 2), dice.uniform(4, 110, 2)])
                category = int(dice.choice([3, 7, 11]))
            box[2:] = np.maximum(box[2:], 1)
            # A coarse grid of scores makes ties within and between pictures.
            score = dice.integers(1, 20) / 20 if seed % 3 == 0 else dice.random()
            where = {"image_id": image_id, "category_id": category, "bbox": tidy(box)}
            results.append({**where, "score": float(score)})
    order = dice.permutation(len(results))
    values = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return values, [results[k] for k in order]


def large_case():
    """Several random cases as one."""
    values, results = random_case(1)
    for seed in (5, 7, 11, 13, 17, 19):
        more, found = random_case(seed)
        shift = 10000 * seed
        for image in more["images"]:
            image["id"] += shift
        for annotation in (*more["annotations"], *found):
            annotation["image_id"] += shift
        values["images"] += more["images"]
        values["annotations"] += more["annotations"]
        results += found
    for number, annotation in enumerate(values["annotations"], start=1):
        annotation["id"] = number
    return values, results


def evaluated(values, results):
    """pycocotools' evaluation, after `summarize`."""
    values, results = copy.deepcopy(values), copy.deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = values
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:
            found = COCO()
            found.dataset = {**values, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def oracle(values, results):
    """The twelve numbers and the AP and AP50 of each class by pycocotools; None for -1."""
    evaluation = evaluated(values, results)
    summary = {
        name: None if value == -1 else float(value)
        for name, value in zip(NAMES, evaluation.stats, strict=True)
    }
    names = {category["id"]: category["name"] for category in values["categories"]}
    class_ap, class_ap50 = {}, {}
    for k, category in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, k, 0, -1]
        if (precision > -1).any():
            class_ap[names[category]] = float(precision[precision > -1].mean())
            class_ap50[names[category]] = float(precision[0][precision[0] > -1].mean())
    return summary, class_ap, class_ap50


def data_of(values):
    dataset = read_coco(copy.deepcopy(values), Contents(AllThere(Path())), "set")
    assert dataset.problems == ()
    return dataset


def assert_same_summary(ours, theirs):
    """COCO's twelve numbers; None where there is nothing to measure."""
    assert tuple(ours) == NAMES
    assert dict(ours) == pytest.approx(theirs, abs=1e-9)


def assert_same_numbers(metrics, expected):
    summary, class_ap, class_ap50 = expected
    assert_same_summary(metrics.summary, summary)
    assert metrics.class_ap == pytest.approx(class_ap, abs=1e-9)
    assert metrics.class_ap50 == pytest.approx(class_ap50, abs=1e-9)


def perfect_case(seed):
    """`random_case` without crowds, and results that are its very boxes."""
    values, _ = random_case(seed)
    for annotation in values["annotations"]:
        annotation["iscrowd"] = 0
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in values["annotations"]
    ]
    return values, results
