"""A calibrated checkpoint and its files, computed by ONNX Runtime and torch."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ssd34.core.contract import METADATA_SCORES, NOTE_INT8_STEPS, ScoreCalibration
from ssd34.core.postprocess import ZOO
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model, make_onnx_model
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.errors import CheckpointError, ModelError
from ssd34.files.checkpoint import read_checkpoint
from ssd34.workflows.calibrate import calibrate_scores, split_in_halves
from ssd34.workflows.training.runs import read_onnx_checkpoint
from tests.support.plain_runs import assert_all_close, plain_session, torch_outputs

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


def test_a_checkpoint_keeps_its_weights_and_its_calibration(calibrated, tmp_path):
    path = tmp_path / "a.safetensors"
    full = dataclasses.replace(calibrated, training={"m": np.arange(3.0)}, state={"step": 3})
    full.save(path)
    read = read_checkpoint(path, training=True)
    assert read.score_calibration == calibrated.score_calibration
    assert all(np.array_equal(read.weights[k], full.weights[k]) for k in full.weights)
    assert (read.training["m"].tolist(), read.state) == ([0, 1, 2], {"step": 3})
    assert read.calibrated.score_calibration is None
    assert full.weights["heads.conf.0.bias"] is calibrated.weights["heads.conf.0.bias"]


def test_an_uncalibrated_checkpoint_is_written_as_before(tiny_checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    tiny_checkpoint.save(path)
    with safe_open(path, "numpy") as file:
        assert set(file.metadata()) == {"format", "spec", "labels", "state"}
    assert read_checkpoint(path).score_calibration is None
    assert tiny_checkpoint.calibrated is tiny_checkpoint


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
    with pytest.raises(ModelError, match=r"b\.onnx"):
        read_onnx_checkpoint(tmp_path / "b.onnx")


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
    values = json.loads(json.dumps(found.to_dict()))
    assert values["background_offset"] == offset
    assert values["held_out"]["before"]["precision_at"].keys() == {"0.3", "0.5", "0.7"}
