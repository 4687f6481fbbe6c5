"""``ssd34 train --qat``, and the int8 file that comes of it."""

import json
import os
import signal

import numpy as np
import pytest

from ssd34.cli.train_screen import TrainScreen
from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.deploy.graph.layers import make_network
from ssd34.errors import Ssd34Error
from ssd34.files.checkpoint import read_checkpoint, read_header
from tests.conftest import shapes_dataset
from tests.support.cli import invoke


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("few") / "set", pictures=4, seed=2)


def train(shapes, init, output, *more, workers=0, epochs=2, code=0):
    return invoke(
        "train", "--data", shapes, "--val", shapes, "--init", init, "--set", "labels=data",
        "--output", output, "--epochs", epochs, "--batch", "4", "--threads", "1", "--lr", "1e-4",
        "--workers", workers, "--qat", *more, code=code,
    )  # fmt: skip


def test_its_checkpoint_makes_an_int8_file_with_the_same_steps(
    shapes, found_shapes, tiny_file, tmp_path
):
    """Calibration runs an engine in the process before worker processes start."""
    train(shapes, tiny_file, tmp_path / "qat", workers=2, epochs=1)
    last = tmp_path / "qat" / "last.safetensors"
    steps = read_header(last).state["notes"][NOTE_INT8_STEPS]
    before, after = read_checkpoint(tiny_file), read_checkpoint(last)
    moved = [k for k in after.weights if np.abs(after.weights[k] - before.weights[k]).max() > 1e-6]
    assert len(moved) > 20
    for key in after.weights:
        if "running" in key:
            np.testing.assert_array_equal(after.weights[key], before.weights[key])
    network = make_network(after)
    assert {n: [float(v.scale), int(v.zero_point)] for n, v in network.trained.items()} == steps
    (tmp_path / "quantize.yaml").write_text("rounds: 1\n")
    invoke(
        "quantize", last, "--data", found_shapes, "--output", tmp_path / "int8",
        "--config", tmp_path / "quantize.yaml",
        "--max-drop", "1", "--min-speedup", "0.001", "--max-trials", "1",
    )  # fmt: skip
    rows = (tmp_path / "int8" / "trials.jsonl").read_text().splitlines()
    options = json.loads(rows[1])["options"]
    assert (options["ranges"], options["bias_correction"]) == ("trained", False)
    assert options["reduce_range"]


def test_an_interrupted_run_goes_on_rounding(few, tiny_file, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(few, tiny_file, whole)
    with monkeypatch.context() as patch:
        patch.setattr(TrainScreen, "evaluated", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        train(few, tiny_file, parts, code=130)
    again = ("train", "--data", few, "--val", few, "--output", parts, "--resume",
             "--workers", "0", "--threads", "1")  # fmt: skip
    first = read_header(parts / "last.safetensors").state["step"]
    invoke(*again)
    a, b = (read_checkpoint(folder / "last.safetensors") for folder in (whole, parts))
    assert first < a.state["step"] == b.state["step"]
    for key, value in a.weights.items():
        np.testing.assert_array_equal(value, b.weights[key], err_msg=key)
    broken = read_checkpoint(parts / "last.safetensors", training=True)
    steps = broken.state["notes"][NOTE_INT8_STEPS]
    for change in ({"extras.0.conv1": 0.5}, {}):
        del steps["extras.0.conv1"]
        steps |= change
        broken.save(parts / "last.safetensors")
        with pytest.raises(Ssd34Error, match=r"int8_steps|extras\.0\.conv1"):
            invoke(*again)


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (("--set", "precision=bf16"), "precision=fp32"),
        (("--set", "backbone_statistics=batch"), "backbone_statistics=frozen"),
        (("--set", "small_size=48"), "small_size"),
        (("--init", "default@backbone"), "a trained detector.*--init"),
    ],
)
def test_what_does_not_fit_is_refused(few, tiny_file, tmp_path, more, fact):
    with pytest.raises(Ssd34Error, match=fact):
        train(few, tiny_file, tmp_path / "qat", *more)
    assert not (tmp_path / "qat").exists()
