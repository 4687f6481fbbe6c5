"""The fitted offset, against detections whose truth is drawn from known scores."""

import dataclasses

import numpy as np
import pytest

from ssd34.core.contract import ScoreCalibration
from ssd34.core.postprocess import ZOO, softmax
from ssd34.datasets.dataset import Problem
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.evaluate.metrics import FOUND, NOT_COUNTED, match_detections
from ssd34.evaluate.score import PRECISION_AT, measure_precisions
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.workflows.calibrate import (
    FEWEST_RIGHT,
    Scored,
    fit_offset,
    look_at_scores,
    split_in_halves,
)


def drawn(offset, *, count=20000, seed=0):
    """Detections of which the share is right that softmax tells with an offset."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (6, count)).astype(np.float32)
    labels = generator.integers(1, 6, count)
    raw = softmax(logits)
    true = softmax(ScoreCalibration(background_offset=offset).apply(logits))
    rows = np.arange(count)
    right = generator.random(count) < true[labels, rows]
    return Scored(raw[labels, rows].astype(float), raw[0].astype(float), right)


@pytest.mark.parametrize("offset", [-1.0, 0.0, 1.5, 4.0])
def test_a_known_offset_is_recovered(offset):
    scored = drawn(offset)
    found = fit_offset(scored, name="drawn").background_offset
    assert found == pytest.approx(offset, abs=0.1)
    # No other offset is better, by an exhaustive look.
    assert scored.error(found) <= min(scored.error(o) for o in np.arange(-6, 6, 0.01)) + 1e-9


def test_the_error_is_that_of_calibrated_softmax():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(4, 50)).astype(np.float32)
    raw = softmax(logits)
    right = generator.random(50) < 0.5
    after = softmax(ScoreCalibration(background_offset=0.7).apply(logits))[2].astype(float)
    expected = -np.mean(np.log(np.where(right, after, 1 - after)))
    scored = Scored(raw[2].astype(float), raw[0].astype(float), right)
    assert scored.error(0.7) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("right", [0, FEWEST_RIGHT - 1, 100])
def test_too_few_are_right_or_none_is_wrong(right):
    scored = Scored(np.full(100, 0.5), np.full(100, 0.4), np.arange(100) < right)
    with pytest.raises(DatasetError) as raised:
        fit_offset(scored, name="few.zip")
    assert "few.zip" in str(raised.value)
    assert str(right) in str(raised.value)


def test_scores_that_no_offset_mends():
    scored = Scored(np.full(10**6, 0.5), np.full(10**6, 0.5), np.arange(10**6) < FEWEST_RIGHT)
    with pytest.raises(DatasetError, match="far"):
        fit_offset(scored, name="far")


def test_halves_share_nothing_and_are_drawn_by_the_seed(shapes):
    dataset = open_dataset(str(shapes))
    first, second = split_in_halves(dataset, seed=3)
    names = [[sample.file_name for sample in half.samples] for half in (first, second)]
    assert sorted(names[0] + names[1]) == sorted(s.file_name for s in dataset.samples)
    assert [len(n) for n in names] == [6, 6]
    assert names[0] == [s.file_name for s in split_in_halves(dataset, seed=3)[0].samples]
    assert names[0] != [s.file_name for s in split_in_halves(dataset, seed=4)[0].samples]
    with pytest.raises(DatasetError, match="1 picture"):
        split_in_halves(dataclasses.replace(dataset, samples=dataset.samples[:1]), seed=0)


def test_what_a_network_says_is_what_evaluate_says(tiny_raw_model, found_shapes):
    dataset = open_dataset(str(found_shapes))
    detector = Detector(Session(tiny_raw_model))
    offset = ScoreCalibration(background_offset=0.5)
    done: list[int] = []
    scored, (before, after) = look_at_scores(
        detector, dataset, (None, offset), policy=ZOO, progress=done.append
    )
    assert done == list(range(1, len(dataset) + 1))
    metrics, results = evaluate_detector(detector, dataset)
    assert before.score.metrics.summary == metrics.summary
    assert before.score.precisions == measure_precisions(dataset, results)
    assert after.score.metrics.summary != metrics.summary
    _, found = match_detections(dataset, results)
    counts = found.status != NOT_COUNTED
    assert len(scored.right) == counts.sum() > 0
    assert scored.right.sum() == (found.status == FOUND).sum() > 0
    np.testing.assert_allclose(np.sort(scored.scores), np.sort(results.scores[counts]), atol=1e-6)
    assert (scored.scores + scored.backgrounds <= 1 + 1e-6).all()


def test_difficult_boxes_and_crowds_count_neither_way(tiny_raw_model, found_shapes):
    dataset = open_dataset(str(found_shapes))
    ignored = tuple(
        dataclasses.replace(s, difficult=np.ones(len(s.boxes), bool)) for s in dataset.samples
    )
    detector = Detector(Session(tiny_raw_model))
    counted, _ = look_at_scores(detector, dataset)
    left, _ = look_at_scores(detector, dataclasses.replace(dataset, samples=ignored))
    assert left.right.sum() == 0 < counted.right.sum()
    assert len(left.right) <= len(counted.right) - counted.right.sum()


def test_an_unreadable_picture_is_told_and_left_out(tiny_raw_model, found_shapes):
    dataset = open_dataset(str(found_shapes))

    class Broken:
        exists = dataset.images.exists

        def read_bytes(self, file_name):
            return b"" if file_name.startswith("0003") else dataset.images.read_bytes(file_name)

    broken = dataclasses.replace(dataset, images=Broken())
    problems: list[Problem] = []
    detector = Detector(Session(tiny_raw_model))
    scored, (before,) = look_at_scores(detector, broken, (None,), problem=problems.append)
    assert [problem.where for problem in problems] == ["0003.png"]
    assert before.score.metrics.pictures == len(dataset) - 1
    rest = dataclasses.replace(
        dataset, samples=tuple(s for s in dataset.samples if s.file_name != "0003.png")
    )
    np.testing.assert_array_equal(scored.scores, look_at_scores(detector, rest)[0].scores)


def test_precision_counts_by_hand(shapes):
    """Every box found at a score of its own, and as many false alarms."""
    from ssd34.core.boxes import xywh_from_xyxy
    from ssd34.evaluate.results import Results

    dataset = open_dataset(str(shapes))
    rows = []
    for k, sample in enumerate(dataset.samples):
        for box, label in zip(xywh_from_xyxy(sample.boxes), sample.labels, strict=True):
            one = {
                "image_id": sample.image_id,
                "category_id": dataset.labels.category_id(int(label)),
                "bbox": box.tolist(),
                "score": (0.2, 0.3, 0.5, 0.8)[k % 4],
            }
            rows += [one, {**one, "bbox": [0, 0, 1, 1], "score": 0.4}]
    told = measure_precisions(dataset, Results.of(rows))
    assert [p.score for p in told] == list(PRECISION_AT)
    for precision in told:
        above = [row for row in rows if row["score"] >= precision.score]
        right = [row for row in above if row["bbox"] != [0, 0, 1, 1]]
        assert (precision.right, precision.detections) == (len(right), len(above))
        assert precision.precision == pytest.approx(len(right) / len(above))
    assert [p.precision for p in measure_precisions(dataset, Results.of([]))] == [None] * 3
