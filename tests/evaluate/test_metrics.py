from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import Picked
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError
from ssd34.evaluate.analysis import analyse
from ssd34.evaluate.bootstrap import estimate_uncertainty, match
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.evaluate.metrics import match_categories, measure_coco
from ssd34.evaluate.results import convert_picked
from ssd34.runtime.detector import Detector
from tests.conftest import TINY_LABELS
from tests.support.coco_oracle import (
    CATEGORIES,
    assert_same_numbers,
    data_of,
    oracle,
    perfect_case,
    random_case,
)
from tests.support.refusals import refused
from tests.support.scenes import random_scene

# --- against pycocotools --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(80))
def test_random_cases_against_pycocotools(seed):
    values, results = random_case(seed)
    metrics = measure_coco(data_of(values), results)
    assert metrics.pictures == len(values["images"])
    assert_same_numbers(metrics, oracle(values, results))


@pytest.mark.parametrize("seed", range(0, 80, 16))
def test_ap_of_each_class_by_object_size(seed):
    values, results = random_case(seed)
    metrics = measure_coco(data_of(values), results)
    sizes = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
    assert set(metrics.area_class_ap) == set(sizes)
    for area, by_class in metrics.area_class_ap.items():
        low, high = sizes[area]
        there = {
            category["name"]
            for category in CATEGORIES
            for a in values["annotations"]
            if a["category_id"] == category["id"] and not a["iscrowd"] and low <= a["area"] <= high
        }
        assert set(by_class) == there
        mean = metrics.summary[f"AP_{area}"]
        assert mean == pytest.approx(np.mean(list(by_class.values())) if there else None)


@pytest.mark.parametrize(("objects", "detections", "ap"), [(1, 0, 0), (0, 1, None), (0, 0, None)])
def test_nothing_found_is_zero_and_nothing_to_find_is_none(objects, detections, ap):
    values, results = random_case(1)
    values["annotations"] *= objects
    metrics = measure_coco(data_of(values), results * detections)
    assert_same_numbers(metrics, oracle(values, results * detections))
    assert metrics.summary["AP"] == ap and metrics.ap == metrics.ap50 == 0
    assert set(metrics.class_ap.values()) == ({0} if objects else set())
    assert metrics.class_ap == metrics.class_ap50


def test_perfect_results_score_one():
    values, results = perfect_case(4)
    metrics = measure_coco(data_of(values), results)
    assert metrics.ap == metrics.ap50 == pytest.approx(1)
    assert metrics.summary["AR100"] == pytest.approx(1)
    assert_same_numbers(metrics, oracle(values, results))


def test_difficult_boxes_count_as_crowd():
    values, results = random_case(7)
    ours = copy.deepcopy(values)
    for annotation in ours["annotations"]:
        annotation["difficult"] = annotation["iscrowd"]
        annotation["iscrowd"] = 0
    assert any(a["difficult"] for a in ours["annotations"])
    assert_same_numbers(measure_coco(data_of(ours), results), oracle(values, results))


def test_only_the_best_hundred_of_a_picture_count():
    image = {"id": 1, "file_name": "1.jpg", "width": 100, "height": 100}
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], "iscrowd": 0}
    values = {"images": [image], "annotations": [box | {"area": 2500}], "categories": CATEGORIES}
    wrong = {"image_id": 1, "category_id": 3, "bbox": [80, 80, 10, 10], "score": 0.9}
    right = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], "score": 0.1}
    assert measure_coco(data_of(values), [wrong] * 99 + [right]).ap == pytest.approx(0.01)
    assert measure_coco(data_of(values), [wrong] * 100 + [right]).ap == 0
    for count in (99, 100):
        results = [wrong] * count + [right]
        assert_same_numbers(measure_coco(data_of(values), results), oracle(values, results))
    strays = [right | {"image_id": 9**9}, right | {"category_id": 99}]  # of other data
    assert measure_coco(data_of(values), [right, *strays]).ap == pytest.approx(1)


# --- the pieces -----------------------------------------------------------------------------


def test_coco_results_are_in_pixels_and_the_data_sets_ids():
    dataset = data_of(random_case(6)[0])
    sample = dataset.samples[0]
    picked = Picked(
        np.array([[0.25, 0.5, 0.75, 1], [-0.5, 0, 0.5, 2], [0, 0, 1, 1]], np.float32),
        np.array([2, 1, 3]),
        np.array([0.5, 0.25, 0.125], np.float32),
    )
    results = convert_picked(picked, sample=sample, categories=np.array([-1, 40, 7, -1]))
    assert [(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in results] == [
        (sample.image_id, 7, [80, 160, 160, 160], 0.5),
        (sample.image_id, 40, [0, 0, 160, 320], 0.25),
    ]


def test_categories_are_matched_by_name():
    dataset = data_of(random_case(6)[0])
    network = LabelSet.from_names(["disc", "unicorn", "cross"])
    assert match_categories(network, dataset).tolist() == [-1, 7, -1, 11]


def test_categories_without_a_common_class():
    dataset = data_of(random_case(6)[0])
    with refused(DatasetError, "unicorn", "cross, square, disc"):
        match_categories(LabelSet.from_names(["unicorn"]), dataset)


# --- a detector on a data set ---------------------------------------------------------------


def test_everything_that_the_policy_lets_through_is_there_whatever_its_score(tiny_model, shapes):
    detector = Detector.load(tiny_model)
    _, results = evaluate_detector(detector, open_dataset(shapes))
    assert len(results) > 500
    first = open_dataset(shapes).samples[0]
    found = detector.detect(shapes / "images" / first.file_name, score=0)
    own = [result for result in results if result["image_id"] == first.image_id]
    np.testing.assert_allclose([result["score"] for result in own], found.scores)
    sizes = found.boxes[:, 2:] - found.boxes[:, :2]
    np.testing.assert_allclose([result["bbox"][2:] for result in own], sizes, atol=1e-4)


def test_detections_of_classes_that_the_data_lacks_are_left_out(tiny_model, shapes):
    dataset = open_dataset(shapes)
    renamed = LabelSet(("square", "circle", "plus"), TINY_LABELS.category_ids)
    partly = Dataset("set", renamed, dataset.samples[:2], dataset.images)
    _, results = evaluate_detector(Detector.load(tiny_model), partly)
    assert {result["category_id"] for result in results} == {3}


@pytest.mark.parametrize("seed", range(3))
def test_ids_that_float64_does_not_hold(seed):
    """The library, like pycocotools, keeps the ids of detections as float64."""
    dataset, results = random_scene(seed)
    far = 20230114153000000
    assert float(far + 1) == far
    samples = (dataclasses.replace(s, image_id=s.image_id + far) for s in dataset.samples)
    labels = LabelSet(dataset.labels.names, tuple(k + far for k in dataset.labels.category_ids))
    shifted = dataclasses.replace(dataset, samples=tuple(samples), labels=labels)
    moved = dataclasses.replace(
        results, image_ids=results.image_ids + far, category_ids=results.category_ids + far
    )
    assert measure_coco(shifted, moved) == measure_coco(dataset, results)
    uncertain = [estimate_uncertainty(match(*both), resamples=20, seed=1).to_dict()
                 for both in ((shifted, moved), (dataset, results))]  # fmt: skip
    assert uncertain[0] == uncertain[1]
    pictures = [analyse(*both).pictures for both in ((shifted, moved), (dataset, results))]
    assert pictures[0] == pictures[1]
    assert any(picture.found for picture in pictures[0])
