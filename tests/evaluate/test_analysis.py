"""The library's analysis against pycocotools' matching and against counting by hand."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.analysis import analyse, rank_best, rank_worst
from ssd34.evaluate.counts import BACKGROUND, OTHERS, Confusion
from ssd34.evaluate.metrics import measure_coco
from ssd34.evaluate.results import Results
from ssd34.files.tree import FolderFiles
from tests.support.coco_oracle import evaluated, random_case
from tests.support.scenes import every_error, random_scene, sample

SEEDS = range(8)


def oracle(seed):
    """pycocotools after accumulate, and per detection (score, found, ignored) at IoU 0.5."""
    evaluation = evaluated(*random_case(seed))
    rows = []
    for one in evaluation.evalImgs:
        if one is not None and one["aRng"] == evaluation.params.areaRng[0]:
            for detection, match, ignored, score in zip(
                one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0], one["dtScores"], strict=True
            ):
                rows.append((detection - 1, score, match > 0, bool(ignored)))
    return evaluation, rows


@functools.cache
def case(seed):
    """Data set, results, what pycocotools says and what we say."""
    dataset, results = random_scene(seed)
    return dataset, results, oracle(seed), analyse(dataset, results)


@pytest.mark.parametrize("seed", SEEDS)
def test_curves_are_those_of_pycocotools(seed):
    dataset, _, (evaluation, _), analysis = case(seed)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    measured = (precision > -1).all(axis=(0, 1))
    told = analysis.curves
    assert len(told.by_iou) == (10 if measured.any() else 0)
    for k, curve in enumerate(told.by_iou):
        assert curve.precision == pytest.approx(precision[k][:, measured].mean(axis=1), abs=1e-12)
    assert [curve.name for curve in told.by_class] == [
        name for name, there in zip(dataset.labels.names, measured, strict=True) if there
    ]
    for curve, k in zip(told.by_class, np.flatnonzero(measured).tolist(), strict=True):
        assert curve.precision == pytest.approx(precision[0, :, k], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_score_is_the_best_of_all(seed):
    dataset, _, (_, rows), analysis = case(seed)
    objects = sum(int((~one.ignored).sum()) for one in dataset.samples)
    every: dict[float, float] = {}
    for threshold in {score for _, score, _, ignored in rows if not ignored}:
        kept = [found for _, score, found, ignored in rows if score >= threshold and not ignored]
        every[threshold] = 2 * sum(kept) / (len(kept) + objects)
    told = analysis.scores
    if max(every.values(), default=0) == 0:
        assert told.best == 0.5 and told.best_f1 == 0
    else:
        assert told.best_f1 == pytest.approx(max(every.values()))
        assert every[told.best] == pytest.approx(told.best_f1)
        for score, value in zip(told.scores, told.f1, strict=True):
            assert value == pytest.approx(every[score])


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_is_what_numpy_counts(seed):
    _, _, (_, rows), analysis = case(seed)
    scores = np.array([score for _, score, _, ignored in rows if not ignored])
    found = np.array([hit for _, _, hit, ignored in rows if not ignored], float)
    told = analysis.calibration
    assert told.detections == len(scores)
    gaps = []
    for one in told.bins:
        last = one.high == 1
        inside = (scores >= one.low) & ((scores < one.high) | last)
        assert one.count == inside.sum()
        assert one.score == pytest.approx(scores[inside].mean())
        assert one.right == pytest.approx(found[inside].mean())
        gaps.append(one.count * abs(one.score - one.right))
    assert sum(one.count for one in told.bins) == len(scores)
    assert told.ece == pytest.approx(sum(gaps) / max(1, len(scores)))


@pytest.mark.parametrize("seed", SEEDS)
def test_pictures_add_up_to_what_pycocotools_found(seed):
    dataset, results, (_, rows), told = case(seed)
    image_of = [one["image_id"] for one in results]
    for one in told.pictures:
        image = dataset.samples[one.sample].image_id
        own = [
            row for row in rows
            if image_of[row[0]] == image and row[1] >= told.scores.best and not row[3]
        ]  # fmt: skip
        assert one.found == sum(row[2] for row in own)
        assert one.false_alarms == sum(not row[2] for row in own)
        assert sorted(one.detections) == sorted((row[0], row[2]) for row in own)
        assert one.objects == int((~dataset.samples[one.sample].ignored).sum())
        assert [k is None for k in one.boxes_found] == dataset.samples[one.sample].ignored.tolist()
        assert sum(bool(k) for k in one.boxes_found) == one.found


@pytest.mark.parametrize("seed", SEEDS)
def test_confusion_loses_nothing(seed):
    """Rows are the objects of each class, columns the detections; crowds are in neither."""
    _, _, _, told = case(seed)
    counts = told.confusion.counts
    objects = [one.objects for one in told.classes]
    assert counts[:-1].sum(axis=1).tolist() == objects
    assert counts[:, :-1].sum() == sum(len(one.detections) for one in told.pictures)
    assert counts[-1, -1] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_are_those_of_the_metric(seed):
    dataset, results, _, told = case(seed)
    metrics = measure_coco(dataset, results)
    assert {one.name: one.ap for one in told.classes if one.ap is not None} == pytest.approx(
        dict(metrics.class_ap)
    )
    for one in told.sizes:
        assert one.ap == pytest.approx(metrics.summary[f"AP_{one.name}"])
        assert one.recall == pytest.approx(metrics.summary[f"AR_{one.name}"])
    assert sum(one.objects for one in told.classes) == sum(
        int((~one.ignored).sum()) for one in dataset.samples
    )


def test_every_kind_of_error_is_told(tmp_path):
    """All scores count: the best F1 is at the lowest score that finds something."""
    dataset, results = every_error(tmp_path)
    lifted = [one | {"score": 0.8 + one["score"] / 10} for one in results]
    lifted[0]["score"] = 0.81  # the only two that are right come last
    lifted[6]["score"] = 0.80
    lifted[1]["score"] = 0.805
    told = analyse(dataset, Results.of(lifted))
    assert told.scores.best == 0.80
    assert {one.name: one.count for one in told.errors.kinds} == {
        "localisation": 1, "class": 1, "both": 1, "duplicate": 1, "background": 3, "missed": 2,
    }  # fmt: skip


def test_the_scene_by_hand(tmp_path):
    dataset, results = every_error(tmp_path)
    told = analyse(dataset, results)
    # At 0.85: two right of two, of six objects: F1 = 4 / 8.
    assert (told.scores.best, told.scores.best_f1) == (0.85, 0.5)
    assert told.scores.best_precision == 1
    assert told.scores.best_recall == pytest.approx(1 / 3)
    assert told.confusion.names == ("cat", "dog", BACKGROUND)
    assert told.confusion.counts.tolist() == [[1, 0, 4], [0, 1, 0], [0, 0, 0]]
    assert told.calibration.detections == 9  # not the cat in the crowd of cats
    assert {one.name: one.objects for one in told.classes} == {"cat": 5, "dog": 1}
    assert told.errors.ap50 == pytest.approx(measure_coco(dataset, results).ap50)
    # 3: nothing was said of the cat above 0.85.
    assert [(one.found, one.missed, one.false_alarms) for one in told.pictures] == [
        (1, 0, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0, 0, 0),
    ]  # fmt: skip
    assert [one.file_name for one in rank_best(told.pictures)] == ["1.png", "6.png"]
    assert [one.file_name for one in rank_worst(told.pictures)] == [
        "2.png",
        "3.png",
        "4.png",
        "5.png",
    ]


def test_what_errors_cost_by_hand():
    """One class, two objects, the second detection of two off: AP50 would double."""
    boxes = [(10, 10, 50, 50), (100, 100, 140, 140)]
    dataset = Dataset(
        "two", LabelSet(("cat",), (1,)), (sample(1, boxes, [1, 1]),), FolderFiles(Path("nowhere"))
    )
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [120, 100, 40, 40], "score": 0.8},
    ]
    told = analyse(dataset, Results.of(results)).errors
    half = 51 / 101  # COCO's recalls 0, 0.01 .. 0.50
    assert told.ap50 == pytest.approx(half)
    cost = {one.name: one.ap50_lost for one in told.kinds}
    assert cost.pop("localisation") == pytest.approx(1 - half)
    assert cost == pytest.approx(dict.fromkeys(cost, 0))


@pytest.mark.parametrize("objects", [0, 2])
def test_nothing_detected_or_nothing_there_is_an_answer(objects):
    boxes = [(10, 10, 50, 50)] * objects
    dataset = Dataset(
        "few", LabelSet(("cat", "dog"), (1, 2)), (sample(1, boxes, [1] * objects), sample(2)),
        FolderFiles(Path("nowhere")),
    )  # fmt: skip
    told = analyse(dataset, Results.of([]))
    assert bool(told.curves.by_iou) == bool(objects)
    assert told.scores.scores == () and told.calibration.bins == ()
    assert told.confusion.counts.sum() == objects
    assert sum(one.count for one in told.errors.kinds) == objects
    assert told.errors.ap50 == 0 and rank_best(told.pictures) == []


def test_many_classes_are_gathered():
    dice = np.random.default_rng(0)
    counts = dice.integers(0, 5, (31, 31))
    counts[-1, -1] = 0
    counts[4, 9] = 100
    names = (*(f"class {k}" for k in range(30)), BACKGROUND)
    full = Confusion(names, counts, 0.5)
    few = full.of_most_confused(6)
    assert len(few.names) == 8 and few.names[-2:] == (OTHERS, BACKGROUND)
    assert {"class 4", "class 9"} <= set(few.names)
    assert few.counts.sum() == counts.sum()
    row, column = few.names.index("class 4"), few.names.index("class 9")
    assert few.counts[row, column] == 100
    assert full.pairs(1) == (("class 4", "class 9", 100),)
    assert full.of_most_confused(30) is full
    assert few.shares().sum(axis=1) == pytest.approx(1)
