"""Detections as annotations, for correcting by hand and for training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssd34.core.labels import COCO_LABELS
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.images.sources import find_pictures
from ssd34.runtime.detector import Detector
from ssd34.workflows.label import Labelling, label_with_model, label_with_results
from tests.conftest import EXAMPLES
from tests.support.cli import attempt
from tests.support.pictures import save_picture
from tests.support.refusals import refused


def found(**changes):
    values = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "score": 0.9}
    return values | {"file_name": "a.png", "category_name": "nut"} | changes


def taught(tmp_path, results, **how):
    for name in ("a.png", "deep/a.png"):
        save_picture(tmp_path / "pictures" / name)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(results))
    return label_with_results(find_pictures([str(tmp_path / "pictures")]), file, Labelling(**how))


def test_the_models_detections_are_the_boxes():
    detector = Detector.load()
    pictures = find_pictures([str(EXAMPLES)])
    dataset = label_with_model(pictures, detector, Labelling(score=0.6, uncertain=0.2))
    assert dataset.labels == COCO_LABELS
    for sample, picture in zip(dataset.samples, pictures, strict=True):
        seen = detector.detect(picture.path, score=0.2)
        np.testing.assert_allclose(sample.boxes, seen.boxes, atol=1e-3)
        np.testing.assert_array_equal(sample.labels, seen.labels)
        np.testing.assert_array_equal(sample.difficult, seen.scores < np.float32(0.6))
        np.testing.assert_array_equal(sample.scores, seen.scores)


def test_a_broken_picture_is_left_out_and_named(tmp_path):
    save_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    dataset = label_with_model(find_pictures([str(tmp_path)]), Detector.load(), Labelling())
    assert [sample.file_name for sample in dataset.samples] == ["a.png"]
    assert sorted(problem.where for problem in dataset.problems) == ["b.png", "c.png"]
    with refused(ImageError, "b.png"):
        label_with_model(find_pictures([str(tmp_path / "b.png")]), Detector.load(), Labelling())
    assert all(str(tmp_path) not in problem.reason for problem in dataset.problems)


def test_another_detectors_results_with_classes_of_its_own(tmp_path):
    results = [
        found(),
        found(category_id=0, category_name="bolt", score=0.3, bbox=[30, 40, 99, 99]),
        found(score=0.1),
        found(bbox=[50, 60, 5, 5]),
        found(file_name="deep/a.png", category_name="bolt", category_id=0),
    ]
    dataset = taught(tmp_path, results, score=0.5, uncertain=0.2)
    assert dataset.labels.names == ("bolt", "nut")
    one, deep = dataset.samples
    assert (one.file_name, deep.file_name) == ("a.png", "deep/a.png")
    np.testing.assert_array_equal(one.boxes, [[1, 2, 11, 22], [30, 40, 40, 50]])
    np.testing.assert_array_equal(one.labels, [2, 1])
    np.testing.assert_array_equal(one.difficult, [False, True])
    np.testing.assert_array_equal(deep.labels, [1])


def test_results_without_names_go_by_number_and_cocos_ids(tmp_path):
    save_picture(tmp_path / "000139.png")
    save_picture(tmp_path / "000285.png")
    file = tmp_path / "found.json"
    value = {"image_id": 285, "category_id": 90, "bbox": [1, 2, 3, 4], "score": 0.7}
    file.write_text(json.dumps([value]))
    dataset = label_with_results(find_pictures([str(tmp_path)]), file, Labelling())
    assert [len(sample.boxes) for sample in dataset.samples] == [0, 1]
    assert dataset.labels.name(int(dataset.samples[1].labels[0])) == "toothbrush"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"image_id": 77}]'])
def test_what_is_no_results_file(tmp_path, text):
    save_picture(tmp_path / "a.png")
    file = tmp_path / "found.json"
    file.write_text(text)
    with refused(DatasetError, "found.json"):
        label_with_results(find_pictures([str(tmp_path / "a.png")]), file, Labelling())


@pytest.mark.parametrize("how", [{"score": 2}, {"score": 0.5, "uncertain": 0.6}])
def test_scores_that_cannot_be(how):
    with pytest.raises(OptionError):
        Labelling(**how)


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_the_command_writes_a_data_set_that_can_be_read(tmp_path, form):
    made = tmp_path / "made"
    told = tmp_path / "told.json"
    result = attempt("data", "label", EXAMPLES, "--output", made, "--format", form, "--json", told)
    assert result.exit_code == 0, result.stderr
    dataset = open_dataset(made if form == "coco" else f"{made}@train")
    boxes = sum(len(sample.boxes) for sample in dataset.samples)
    assert json.loads(told.read_text())["objects"] == boxes > 0
    by_name = {s.file_name.split("/")[-1]: s for s in dataset.samples}
    labels = by_name["chelsea.jpg"].labels
    assert "cat" in {dataset.labels.name(int(label)) for label in labels}
    scores = [sample.scores for sample in dataset.samples if sample.scores is not None]
    assert bool(scores) == (form == "coco")
    assert all(((some >= 0.5) & (some < 1)).all() for some in scores)


def test_the_command_takes_a_model_or_detections(tmp_path):
    file = tmp_path / "found.json"
    file.write_text("[]")
    result = attempt(
        "data", "label", EXAMPLES, "--output", tmp_path / "made", "--model", "default",
        "--detections", file,
    )  # fmt: skip
    assert result.exit_code != 0
    assert not (tmp_path / "made").exists()
