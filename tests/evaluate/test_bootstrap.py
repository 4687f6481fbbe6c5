from __future__ import annotations

import copy

import numpy as np
import pytest

from ssd34.evaluate.bootstrap import (
    accumulate,
    average_classes,
    draw_pictures,
    estimate_uncertainty,
    match,
    measure_interval,
    summarise,
)
from ssd34.evaluate.metrics import measure_coco
from tests.support.coco_oracle import data_of, large_case, oracle, perfect_case, random_case


@pytest.mark.parametrize("seed", range(30))
def test_every_picture_once_is_pycocotools_ap(seed):
    values, results = random_case(seed)
    matches = match(data_of(values), results)
    summary, class_ap, _ = oracle(values, results)
    every = accumulate(matches, np.ones((1, matches.pictures), np.int32))
    for name, (ours,) in summarise(every).items():
        if summary[name] is None:
            assert np.isnan(ours)
        else:
            assert ours == pytest.approx(summary[name], abs=1e-9), name
    ours = average_classes(every)
    assert {n: float(ap[0]) for n, ap in zip(matches.classes, ours, strict=True)} == pytest.approx(
        class_ap, abs=1e-9
    )


def repeated(values, results, counts):
    """The same pictures so many times each, as a data set of its own."""
    many, found = {**values, "images": [], "annotations": []}, []
    order = sorted(image["id"] for image in values["images"])
    for image in values["images"]:
        for k in range(counts[order.index(image["id"])]):
            new = image["id"] * 100 + k
            many["images"].append({**image, "id": new, "file_name": f"{new}.jpg"})
            for a in values["annotations"]:
                if a["image_id"] == image["id"]:
                    many["annotations"].append(
                        {**a, "image_id": new, "id": len(many["annotations"]) + 1}
                    )
            found += [{**r, "image_id": new} for r in results if r["image_id"] == image["id"]]
    return copy.deepcopy(many), found


@pytest.mark.parametrize("seed", [k for k in range(1, 24) if k % 3])  # scores without ties
def test_weights_are_repetitions(seed):
    values, results = random_case(seed)
    matches = match(data_of(values), results)
    dice = np.random.default_rng(seed)
    counts = dice.integers(0, 4, (5, len(values["images"]))).astype(np.int32)
    counts[:, 0] = np.maximum(counts[:, 0], 1)
    every = summarise(accumulate(matches, counts))
    for k, row in enumerate(counts):
        summary, _, _ = oracle(*repeated(values, results, row))
        for name, ours in every.items():
            assert ours[k] == pytest.approx(
                np.nan if summary[name] is None else summary[name], abs=1e-9, nan_ok=True
            )


def test_draws_are_seeded_and_of_as_many_pictures():
    matches = match(data_of(random_case(1)[0]), random_case(1)[1])
    first = np.concatenate(list(draw_pictures(matches, resamples=120, seed=3)))
    again = np.concatenate(list(draw_pictures(matches, resamples=120, seed=3)))
    other = np.concatenate(list(draw_pictures(matches, resamples=120, seed=4)))
    assert first.shape == (120, matches.pictures)
    assert (first.sum(axis=1) == matches.pictures).all()
    assert (first == again).all() and (first != other).any()
    # More draws begin with the same ones.
    longer = np.concatenate(list(draw_pictures(matches, resamples=150, seed=3)))
    assert (longer[:120] == first).all()


def test_uncertainty_holds_the_measured_numbers():
    values, results = large_case()
    dataset = data_of(values)
    steps: list[int] = []
    found = estimate_uncertainty(
        match(dataset, results), resamples=130, seed=1, progress=steps.append
    )
    metrics = measure_coco(dataset, results)
    assert set(found.summary) == {"AP", "AP50", "AP75"}
    assert set(found.class_ap) == set(metrics.class_ap)
    for name, k in found.summary.items():
        assert 0 <= k.low <= (metrics.summary[name] or 0) <= k.high <= 1
        assert k.low < k.high
    assert steps == [50, 100, 130]
    assert found == estimate_uncertainty(match(dataset, results), resamples=130, seed=1)
    assert found.to_dict()["summary"]["AP"] == [found.summary["AP"].low, found.summary["AP"].high]


def test_perfect_detections_have_no_spread():
    values, results = perfect_case(4)
    found = estimate_uncertainty(match(data_of(values), results), resamples=20)
    assert found.summary["AP"].low == pytest.approx(1) and found.summary["AP"].high <= 1


@pytest.mark.parametrize(("pictures", "sure"), [(1, False), (4, False), (5, True)])
def test_few_pictures_have_no_interval(pictures, sure):
    """One object in each: of a single picture every draw would be the same."""
    box = {"category_id": 7, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    values, _ = random_case(4)
    values["images"] = [
        {"id": k, "file_name": f"{k}.jpg", "width": 320, "height": 320} for k in range(1, 21)
    ]
    values["annotations"] = [{"id": k, "image_id": k, **box} for k in range(1, pictures + 1)]
    results = [
        {"image_id": k, "category_id": 7, "bbox": [10, 10, 50, 50], "score": 0.9}
        for k in range(1, 21, 2)
    ]
    found = estimate_uncertainty(match(data_of(values), results), resamples=50)
    assert set(found.class_ap) == ({"disc"} if sure else set())
    assert set(found.summary) == ({"AP", "AP50", "AP75"} if sure else set())


def test_nothing_to_find_has_no_interval():
    values, results = random_case(2)
    values["annotations"] = []
    found = estimate_uncertainty(match(data_of(values), results), resamples=10)
    assert found.summary == found.class_ap == {}


def test_the_interval_is_laid_around_the_measured_number():
    drawn = np.array([*np.linspace(0.4, 0.6, 101), np.nan])
    found = measure_interval(0.3, drawn)
    assert found and found.low == pytest.approx(0.205) and found.high == pytest.approx(0.395)
    cut = measure_interval(0.05, drawn)
    assert cut and cut.low == 0
    assert measure_interval(float("nan"), drawn) is None
    assert measure_interval(0.3, np.full(3, np.nan)) is None


def test_the_interval_is_as_wide_as_other_pictures_would_differ():
    """Many independent data sets of one kind: their APs spread as one set's interval says."""
    aps, widths = [], []
    for seed in range(40):
        values, results = random_case(1000 + 2 * seed + 1)
        matches = match(data_of(values), results)
        found = estimate_uncertainty(matches, resamples=50)
        measured = summarise(accumulate(matches, np.ones((1, matches.pictures), np.int32)))["AP"][0]
        if "AP" in found.summary and matches.pictures >= 5:
            aps.append(measured)
            widths.append(found.summary["AP"].high - found.summary["AP"].low)
    assert 1 / 3 < np.mean(widths) / (3.92 * np.std(aps)) < 3
