import csv
import io
import json
import sys
from typing import Any

import numpy as np
import pytest

from ssd34.core.detections import CSV_HEADER, Detection, Detections
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.postprocess import Picked
from ssd34.errors import MissingExtraError

WIDTH, HEIGHT = 200, 100


def picked_of(boxes, labels, scores):
    return Picked(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, np.float32),
    )


def of(boxes, labels, scores, *, label_set=COCO_LABELS):
    picked = picked_of(boxes, labels, scores)
    return Detections(picked.boxes, picked.labels, picked.scores, label_set, WIDTH, HEIGHT)


@pytest.fixture
def two():
    """A stop sign, whose id in files differs from its label, and a person."""
    return of([[10, 20, 50, 80], [0.5, 0.25, 199.125, 99.75]], [12, 1], [0.9, 0.314159])


@pytest.fixture
def none():
    return of([], [], [])


def from_picked(boxes, labels, scores, **options):
    picked = picked_of(boxes, labels, scores)
    sizes = {"width": WIDTH, "height": HEIGHT}
    return Detections.from_picked(picked, label_set=COCO_LABELS, **sizes, **options)


def test_from_picked_scales_clips_sorts_and_filters():
    boxes = [[0.25, 0.5, 0.75, 0.9], [-0.5, -1, 2, 3], [0, 0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]]
    found = from_picked(boxes, [3, 1, 2, 5], [0.4, 0.8, 0.2, 0.6], score=0.4)
    assert found.labels.tolist() == [1, 5, 3]
    np.testing.assert_allclose(found.scores, [0.8, 0.6, 0.4], rtol=1e-6)
    expected = [[0, 0, 200, 100], [20, 10, 40, 20], [50, 50, 150, 90]]
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-5)
    dtypes = [array.dtype.name for array in (found.boxes, found.labels, found.scores)]
    assert dtypes == ["float32", "int64", "float32"]
    assert (found.width, found.height) == (WIDTH, HEIGHT)


def test_from_picked_keeps_everything_by_default_and_the_order_of_equal_scores():
    found = from_picked([[-1, 0, 1, 1]] * 5, [4, 2, 9, 1, 7], [0.5, 0.5, 0.75, 0.5, 0.0])
    assert found.labels.tolist() == [9, 4, 2, 1, 7]


def test_from_picked_with_nothing_picked_or_nothing_left():
    for found in (from_picked([], [], []), from_picked([[0, 0, 1, 1]], [1], [0.1], score=0.5)):
        assert len(found) == 0 and list(found) == [] and found.names == ()
        assert found.boxes.shape == (0, 4) and found.labels.shape == found.scores.shape == (0,)


def test_names_length_and_iteration(two):
    assert len(two) == 2
    assert two.names == ("stop sign", "person")
    first, second = two
    assert isinstance(first, Detection)
    assert tuple(first) == ((10, 20, 50, 80), 12, "stop sign", pytest.approx(0.9))
    assert second.box == (0.5, 0.25, 199.125, 99.75)
    assert all(type(value) is float for value in (*first.box, first.score))
    assert type(first.label) is int


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(slice(None), ["stop sign", "person"]), (slice(1), ["stop sign"]),
     (slice(None, None, -1), ["person", "stop sign"]), (slice(5, 9), []),
     (np.array([False, True]), ["person"]), ([True, False], ["stop sign"]),
     (np.array([-1, 0, 0]), ["person", "stop sign", "stop sign"]), ([1], ["person"]), ([], [])],
)  # fmt: skip
def test_slices_masks_and_indices_give_detections(two, rows, expected):
    mask = isinstance(rows, np.ndarray) and rows.dtype.kind == "b"
    for kept in (two[rows], *((two.where(rows),) if mask else ())):
        assert isinstance(kept, Detections)
        assert list(kept.names) == expected
        assert kept.boxes.shape == (len(expected), 4) and kept.scores.shape == (len(expected),)
        assert (kept.width, kept.height, kept.label_set) == (WIDTH, HEIGHT, COCO_LABELS)
    assert len(two) == 2


def test_an_integer_gives_what_iteration_gives(two):
    listed = list(two)
    within: tuple[int | np.integer[Any], ...] = (0, 1, -1, -2, np.int64(1), np.uint8(0))
    for index in within:
        assert two[index] == listed[index]
        assert type(two[index].label) is int and type(two[index].score) is float
    for outside in (2, -3, np.ones(3, bool)):
        with pytest.raises(IndexError):
            two[outside]


@pytest.mark.parametrize(
    "index",
    ["person", None, 0.5, ..., (0, 1, 2.5), [0.0], np.True_, np.array(1), np.ones((2, 1), bool)],
)
def test_other_things_are_no_index(two, index):
    with pytest.raises(TypeError, match="mask"):
        two[index]


def test_to_dict_and_to_json(two, none):
    values = two.to_dict()
    first, second = values.pop("detections")
    assert values == {"width": 200, "height": 100}
    assert first == {"name": "stop sign", "label": 12, "score": 0.9, "box": [10, 20, 50, 80]}
    assert second.pop("box") == pytest.approx([0.5, 0.25, 199.125, 99.75], abs=0.006)
    assert second == {"name": "person", "label": 1, "score": 0.31416}
    for found in (two, none):
        assert "\n" not in found.to_json()
        assert json.loads(found.to_json()) == found.to_dict()
    assert none.to_dict() == {"width": 200, "height": 100, "detections": []}


def test_to_coco_uses_sparse_ids_and_sizes(two, none):
    first, second = json.loads(json.dumps(two.to_coco(139)))
    assert first == {"image_id": 139, "category_id": 13, "bbox": [10, 20, 40, 60], "score": 0.9}
    assert second["category_id"] == 1
    assert second["bbox"] == pytest.approx([0.5, 0.25, 198.625, 99.5], abs=0.006)
    assert none.to_coco(1) == []


def test_to_csv_parses_also_with_commas_and_quotes(none):
    labels = LabelSet(('a "big", red thing', "plain"), (5, 6))
    found = of([[1, 2, 3, 4], [5, 6, 7, 8.25]], [1, 2], [0.75, 0.5], label_set=labels)
    file = 'shots/one, "two".jpg'
    text = f"{CSV_HEADER}\n{found.to_csv(file)}"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows] == [file, file]
    assert [row["name"] for row in rows] == ['a "big", red thing', "plain"]
    assert [int(row["label"]) for row in rows] == [1, 2]
    assert [float(row["score"]) for row in rows] == [0.75, 0.5]
    corners = [[float(row[k]) for k in ("left", "top", "right", "bottom")] for row in rows]
    assert corners == [[1, 2, 3, 4], [5, 6, 7, 8.25]]
    assert none.to_csv("a.jpg") == ""


def test_to_yolo(two, none):
    first, second = two.to_yolo().splitlines()
    assert first == "11 0.150000 0.500000 0.200000 0.600000 0.90000"
    index, x, y, width, height, score = map(float, second.split())
    assert index == 0 and score == pytest.approx(0.314159, abs=1e-5)
    left, top = (x - width / 2) * WIDTH, (y - height / 2) * HEIGHT
    right, bottom = (x + width / 2) * WIDTH, (y + height / 2) * HEIGHT
    assert [left, top, right, bottom] == pytest.approx([0.5, 0.25, 199.125, 99.75], abs=1e-3)
    assert two.to_yolo().endswith("\n") and none.to_yolo() == ""


# supervision warns while it is imported where OpenCV is missing.
@pytest.mark.filterwarnings("ignore:OpenCV .*is not installed:UserWarning")
def test_to_supervision(two, none):
    supervision = pytest.importorskip("supervision")
    converted = two.to_supervision()
    assert isinstance(converted, supervision.Detections)
    np.testing.assert_array_equal(converted.xyxy, two.boxes)
    np.testing.assert_array_equal(converted.confidence, two.scores)
    assert converted.class_id is not None and converted.class_id.tolist() == [11, 0]
    assert converted.data["class_name"].tolist() == ["stop sign", "person"]
    assert converted[converted.class_id == 0].xyxy.tolist() == [[0.5, 0.25, 199.125, 99.75]]
    empty = none.to_supervision()
    assert len(empty) == 0 and empty.xyxy.shape == (0, 4)
    assert len(supervision.Detections.merge([converted, empty])) == 2


def test_to_supervision_says_how_to_install_it(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"ssd34\[supervision\]"):
        two.to_supervision()
