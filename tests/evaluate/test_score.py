from __future__ import annotations

import numpy as np
import pytest

from ssd34.core.labels import COCO_LABELS
from ssd34.errors import OptionError
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import LOST_CLASSES, ScoreOptions, apply_zoo_2021, score
from tests.support.coco_oracle import assert_same_numbers, data_of, oracle
from tests.support.datasets import coco_box


def coco_case(seed):
    """All 80 classes, some crowds, detections near the objects."""
    dice = np.random.default_rng(seed)
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 200, "height": 200} for k in range(1, 9)]
    annotations: list[dict] = []
    results: list[dict] = []
    for category in COCO_LABELS.category_ids:
        for _ in range(3):
            box = [*map(int, dice.integers(0, 100, 2)), *map(int, dice.integers(20, 100, 2))]
            near = {"image_id": int(dice.integers(1, 9)), "category_id": category}
            crowd = int(dice.random() < 0.2)
            annotations.append(coco_box(*box, id=len(annotations) + 1, iscrowd=crowd, **near))
            moved = [box[0] + int(dice.integers(-9, 9)), *box[1:]]
            results.append({**near, "bbox": moved, "score": float(dice.random())})
    categories = [
        {"id": c, "name": n}
        for n, c in zip(COCO_LABELS.names, COCO_LABELS.category_ids, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def test_it_is_pycocotools_without_nine_classes_and_without_crowds():
    values, results = coco_case(0)
    dataset = data_of(values)
    options = ScoreOptions(metric="zoo-2021", resamples=10)
    found = score(dataset, Results.of(results), options)
    lost = {c["id"] for c in values["categories"] if c["name"] in LOST_CLASSES}
    assert len(lost) == 9
    values["categories"] = [c for c in values["categories"] if c["id"] not in lost]
    values["annotations"] = [
        {**a, "iscrowd": 0} for a in values["annotations"] if a["category_id"] not in lost
    ]
    rest = [r for r in results if r["category_id"] not in lost]
    assert_same_numbers(found.metrics, oracle(values, rest))
    assert len(found.metrics.class_ap) == 71
    assert found.to_dict()["metric"] == "zoo-2021"
    # The true metric says something else.
    true = score(dataset, Results.of(results), ScoreOptions(resamples=0))
    assert true.metrics.ap != pytest.approx(found.metrics.ap, abs=1e-3)
    assert true.to_dict()["metric"] == "coco" and true.to_dict()["intervals"] is None


def test_the_data_set_itself_is_left_alone():
    dataset = data_of(coco_case(1)[0])
    crowds = sum(int(sample.crowd.sum()) for sample in dataset.samples)
    seen = apply_zoo_2021(dataset)
    assert sum(int(sample.crowd.sum()) for sample in seen.samples) == 0 < crowds
    assert sum(int(sample.crowd.sum()) for sample in dataset.samples) == crowds
    assert len(dataset.labels) == 80


def test_other_classes_are_refused():
    values, _ = coco_case(0)
    for category in values["categories"]:
        category["name"] = category["name"].replace("toaster", "grill")
    with pytest.raises(OptionError, match=r"COCO's 80 classes.*'toaster'"):
        apply_zoo_2021(data_of(values))


@pytest.mark.parametrize("options", [{"metric": "zoo"}, {"resamples": -1}])
def test_unknown_options_are_refused(options):
    with pytest.raises(OptionError):
        ScoreOptions(**options)
