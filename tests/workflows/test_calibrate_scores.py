"""A calibrated checkpoint and its files, computed by ONNX Runtime and torch."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ssd34.core.contract import METADATA_SCORES, NOTE_INT8_STEPS, ScoreCalibration
from ssd34.core.postprocess import ZOO, softmax
from ssd34.datasets.dataset import Problem
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model, make_onnx_model
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.errors import CheckpointError, DatasetError, ModelError
from ssd34.evaluate.evaluator import evaluate_detector
from ssd34.evaluate.metrics import FOUND, NOT_COUNTED, match_detections
from ssd34.evaluate.score import PRECISION_AT, measure_precisions
from ssd34.files.checkpoint import read_checkpoint
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from ssd34.workflows.calibrate import (
    FEWEST_RIGHT,
    Scored,
    calibrate_scores,
    fit_offset,
    look_at_scores,
    split_in_halves,
)
from ssd34.workflows.training.runs import read_onnx_checkpoint
from tests.support.plain_runs import assert_all_close, plain_session, torch_outputs
from tests.support.refusals import refused

OFFSET = 1.5
RAW = ExportOptions(policy=None, batch=None)


@pytest.fixture(scope="module")
def calibrated(tiny_checkpoint):
    scores = ScoreCalibration(background_offset=OFFSET)
    return dataclasses.replace(tiny_checkpoint, score_calibration=scores)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)


def outputs(model, pictures):
    return plain_session(model).run(["loc", "conf"], {"image": pictures})


def nodes(model):
    return [(n.op_type, n.name, list(n.input), list(n.output)) for n in model.graph.node]


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def assert_offset(model, checkpoint, pictures, *, offset=OFFSET, tolerance=1e-5):
    """Against the raw network in torch."""
    loc, conf = torch_outputs(checkpoint, pictures)
    conf[:, 0] += offset
    assert_all_close(outputs(model, pictures), (loc, conf), atol=tolerance)


def test_an_exported_file_adds_the_offset_in_the_same_graph(tiny_checkpoint, calibrated, pictures):
    plain, model = (make_onnx_model(one, RAW) for one in (tiny_checkpoint, calibrated))
    assert nodes(model) == nodes(plain)
    assert_offset(model, tiny_checkpoint, pictures)
    assert METADATA_SCORES not in metadata(plain)
    assert json.loads(metadata(model)[METADATA_SCORES]) == {"background_offset": OFFSET}


def test_a_network_read_from_a_calibrated_file_keeps_it(
    tiny_checkpoint, calibrated, pictures, tmp_path
):
    save_model(
        make_onnx_model(calibrated, ExportOptions(weight_format="float32")), tmp_path / "a.onnx"
    )
    again = make_network_model(read_network(tmp_path / "a.onnx"), RAW)
    assert_offset(again, tiny_checkpoint, pictures)
    assert json.loads(metadata(again)[METADATA_SCORES]) == {"background_offset": OFFSET}


@pytest.mark.parametrize("weight_format", ["float32", "float16", "int8"])
def test_training_starts_from_a_calibrated_files_raw_weights(
    calibrated, tiny_checkpoint, weight_format, tmp_path
):
    files = [tmp_path / "plain.onnx", tmp_path / "calibrated.onnx"]
    for checkpoint, path in zip((tiny_checkpoint, calibrated), files, strict=True):
        save_model(make_onnx_model(checkpoint, ExportOptions(weight_format=weight_format)), path)
    plain, found = (read_onnx_checkpoint(path) for path in files)
    assert found.score_calibration == calibrated.score_calibration
    assert plain.score_calibration is None
    assert found.weights.keys() == plain.weights.keys()
    for name, array in plain.weights.items():
        np.testing.assert_allclose(found.weights[name], array, atol=1e-6, err_msg=name)


def test_quantizing_gives_a_calibrated_int8_file(calibrated, tiny_checkpoint, shapes, pictures):
    models = []
    dataset = open_dataset(str(shapes))
    for checkpoint in (tiny_checkpoint, calibrated):
        network = make_network(checkpoint)
        statistics = calibrate(network, (dataset.read(s) for s in dataset.samples[:4]))
        options = QuantizeOptions(form="qdq", opset=13)
        models.append(quantize_network(network, statistics, options, policy=None))
    assert json.loads(metadata(models[1])[METADATA_SCORES]) == {"background_offset": OFFSET}
    assert METADATA_SCORES not in metadata(models[0])
    picture = pictures[:1]
    (_, plain), (_, moved) = (outputs(model, picture) for model in models)
    step = np.ptp(moved) / 100
    assert abs(np.mean(moved[:, 0] - plain[:, 0]) - OFFSET) < 0.1
    assert np.abs(moved[:, 1:] - plain[:, 1:]).max() < 5 * step


def test_trained_steps_still_hold_the_moved_logits(calibrated):
    names = ["image", *make_network(calibrated).by_name]
    steps = {name: [0.01, 100] for name in names}
    noted = dataclasses.replace(calibrated, state={"notes": {NOTE_INT8_STEPS: steps}})
    network = make_network(noted)
    for name in network.conf:
        affine = network.trained[name]
        held = np.float32(affine.scale) * (np.array([0, 255]) - int(affine.zero_point))
        assert held[0] <= -1.0 + 1e-6
        assert held[1] >= 1.55 + OFFSET - 1e-5
    assert network.trained["image"].scale == np.float32(0.01)


def test_a_checkpoint_without_calibration_does_not_mention_one(tiny_file):
    with safe_open(tiny_file, "numpy") as file:
        assert set(file.metadata()) == {"format", "spec", "labels", "state"}


def test_broken_calibrations_are_errors(calibrated, tiny_checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    calibrated.save(path)
    with safe_open(path, "numpy") as file:
        entries = {**file.metadata(), "score_calibration": '{"background_offset": "NaN"}'}
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(arrays, path, metadata=entries)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_checkpoint(path)
    model = make_onnx_model(tiny_checkpoint, RAW)
    onnx.helper.set_model_props(model, {**metadata(model), METADATA_SCORES: "[]"})
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"b\.onnx"):
        read_network(tmp_path / "b.onnx")


def test_the_whole_step(tiny_checkpoint, found_shapes):
    fit, held_out = split_in_halves(open_dataset(str(found_shapes)), seed=0)
    done: list[int] = []
    found = calibrate_scores(tiny_checkpoint, fit, held_out, policy=ZOO, progress=done.append)
    assert done == list(range(1, 13))
    offset = found.calibration.background_offset
    assert found.checkpoint.score_calibration == found.calibration
    assert found.checkpoint.weights is tiny_checkpoint.weights
    assert found.fitted.error(offset) < found.fitted.error(0)
    # A calibration that is there already is replaced, not added to.
    again = calibrate_scores(found.checkpoint, fit, held_out)
    assert again.calibration == found.calibration


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


@pytest.mark.parametrize(
    ("right", "count", "fact"),
    [*((right, 100, right) for right in (0, FEWEST_RIGHT - 1, 100)), (FEWEST_RIGHT, 10**6, "+6")],
)
def test_too_few_are_right_or_none_is_wrong_or_no_offset_mends_it(right, count, fact):
    scored = Scored(np.full(count, 0.5), np.full(count, 0.5), np.arange(count) < right)
    with refused(DatasetError, "few.zip", fact):
        fit_offset(scored, name="few.zip")


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
    none = dataclasses.replace(
        broken, samples=tuple(s for s in dataset.samples if s.file_name == "0003.png")
    )
    with pytest.raises(DatasetError, match=dataset.name):
        look_at_scores(detector, none)


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
