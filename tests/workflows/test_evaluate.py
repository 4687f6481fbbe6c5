"""Evaluation from Python; the numbers are tested in tests/evaluate, the files in tests/cli."""

import json
from typing import Any

import pytest

import ssd34
from ssd34 import DatasetError, EvaluateOptions, ModelError, OptionError
from ssd34.workflows.scoring import (
    EvaluateListener,
    ScoringOptions,
    compare_detections,
    score_detections,
)
from tests.support.coco_oracle import assert_same_numbers, oracle


class Recorder(EvaluateListener):
    def __init__(self):
        self.heard, self.warnings, self.datasets = [], [], []

    def dataset_opened(self, dataset):
        self.datasets.append(dataset)

    def warned(self, message):
        self.warnings.append(message)

    def progressed(self, step, done, total):
        self.heard.append((step, done, total))


def test_a_model_its_detections_and_their_comparison(tiny_model, found_shapes, tmp_path, capfd):
    ears = Recorder()
    file = tmp_path / "d.json"
    names: Any = {"detections": str(file), "json_file": str(tmp_path / "r.json")}
    options = EvaluateOptions(resamples=20, **names)
    measured = ssd34.evaluate(tiny_model, found_shapes, options, listener=ears)
    assert len(ears.datasets) == 1 and ears.warnings == []
    assert [k for k in ears.heard if k[0] == "evaluating"] == [
        ("evaluating", k, 12) for k in range(1, 13)
    ]
    assert ears.heard[-1] == ("resampling", 20, 20)
    truth = json.loads((found_shapes / "instances.json").read_text())
    results = json.loads(file.read_text())
    assert_same_numbers(measured.score.metrics, oracle(truth, results))
    assert measured.score.metrics.ap50 > 0.1 and len(measured.results) == len(results)
    assert json.loads((tmp_path / "r.json").read_text()) == measured.values
    again = score_detections(file, found_shapes, ScoringOptions(resamples=20))
    assert again.score == measured.score
    compared = compare_detections((file, file), found_shapes, ScoringOptions(resamples=5))
    ap = measured.score.metrics.ap
    assert compared.comparison.summary["AP"].first == pytest.approx(ap, abs=1e-12)
    assert compared.comparison.summary["AP"].difference == 0
    assert capfd.readouterr() == ("", "")


def test_no_data_are_not_the_current_folder(tiny_model, shapes, monkeypatch):
    monkeypatch.chdir(shapes)
    with pytest.raises(DatasetError, match="empty"):
        ssd34.evaluate(tiny_model)


def test_what_is_refused_leaves_nothing_behind(tiny_model, shapes, tmp_path):
    file = tmp_path / "a.json"
    with pytest.raises(OptionError, match=str(file)):
        ssd34.evaluate(tiny_model, shapes, EvaluateOptions(json_file=file, detections=file))
    for model, error in (("no.onnx", ModelError), ("default", DatasetError)):
        with pytest.raises(error):
            ssd34.evaluate(model, shapes, EvaluateOptions(report=tmp_path / "report"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_that_was_not_asked_for(tiny_model, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ssd34.evaluate(tiny_model, shapes, EvaluateOptions(limit=2, resamples=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fields",
    [{"limit": 0}, {"metric": "voc"}, {"resamples": -1}, {"seed": -1}, {"report_classes": ("cat",)},
     {"overwrite": True}, {"resume": True}],
)  # fmt: skip
def test_options_are_checked_when_they_are_made(fields):
    with pytest.raises(OptionError):
        EvaluateOptions(**fields)
