"""``ssd34 train --qat``, and the int8 file that comes of it."""

import json
import os
import signal

import numpy as np
import pytest
from click.testing import CliRunner

from ssd34.cli.app import commands
from ssd34.cli.train.screen import Screen
from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.deploy.graph.layers import network_of
from ssd34.errors import Ssd34Error
from ssd34.files.checkpoint import read_checkpoint, read_header


@pytest.fixture(scope="module")
def init(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "tiny.safetensors"
    tiny_checkpoint.save(path)
    return path


def run(*arguments):
    result = CliRunner().invoke(commands, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | Ssd34Error):
        raise result.exception
    return result


def train(shapes, init, output, *more):
    return run(
        "train", "--data", shapes, "--val", shapes, *(("--init", init) if init else ()),
        "--set", "labels=data", "--output", output, "--epochs", "2", "--batch", "4",
        "--threads", "1", "--lr", "1e-4",
        *(("--workers", "0") if "--workers" not in more else ()), *more,
    )  # fmt: skip


def test_its_checkpoint_makes_an_int8_file_with_the_same_steps(
    shapes, found_shapes, init, tmp_path
):
    """Calibration runs an engine in the process before worker processes start."""
    result = train(shapes, init, tmp_path / "qat", "--qat", "--workers", "2")
    assert result.exit_code == 0, result.output
    last = tmp_path / "qat" / "last.safetensors"
    steps = read_header(last).state["notes"][NOTE_INT8_STEPS]
    before, after = read_checkpoint(init), read_checkpoint(last)
    moved = [k for k in after.weights if np.abs(after.weights[k] - before.weights[k]).max() > 1e-6]
    assert len(moved) > 20
    for key in after.weights:
        if "running" in key:
            np.testing.assert_array_equal(after.weights[key], before.weights[key])
    network = network_of(after)
    assert {n: [float(v.scale), int(v.zero_point)] for n, v in network.trained.items()} == steps
    (tmp_path / "quantize.yaml").write_text("rounds: 1\n")
    made = run(
        "quantize", last, "--data", found_shapes, "--output", tmp_path / "int8",
        "--config", tmp_path / "quantize.yaml",
        "--max-drop", "1", "--min-speedup", "0.001", "--max-trials", "1",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    rows = (tmp_path / "int8" / "trials.jsonl").read_text().splitlines()
    options = json.loads(rows[1])["options"]
    assert (options["ranges"], options["bias_correction"]) == ("trained", False)
    assert options["reduce_range"]


def resume(shapes, output, *more):
    return run("train", "--data", shapes, "--val", shapes, "--output", output, "--resume",
               "--workers", "0", "--threads", "1", *more)  # fmt: skip


def test_an_interrupted_run_goes_on_rounding(shapes, init, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(shapes, init, whole, "--qat").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "evaluated", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert train(shapes, init, parts, "--qat").exit_code == 130
    first = read_header(parts / "last.safetensors").state["step"]
    resumed = resume(shapes, parts)
    assert resumed.exit_code == 0, resumed.output
    a, b = (read_checkpoint(folder / "last.safetensors") for folder in (whole, parts))
    assert first < a.state["step"] == b.state["step"]
    for key, value in a.weights.items():
        np.testing.assert_array_equal(value, b.weights[key], err_msg=key)
    broken = read_checkpoint(parts / "last.safetensors", training=True)
    steps = broken.state["notes"][NOTE_INT8_STEPS]
    for change, message in (
        ({"extras.0.conv1": 0.5}, "is broken"),
        ({}, "no int8 steps for extras.0.conv1"),
    ):
        del steps["extras.0.conv1"]
        steps |= change
        broken.save(parts / "last.safetensors")
        refused = resume(shapes, parts)
        assert isinstance(refused.exception, Ssd34Error)
        assert message in str(refused.exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "precision=bf16"), "--qat needs precision=fp32"),
        (("--set", "backbone_statistics=batch"), "--qat needs backbone_statistics=frozen"),
        (("--set", "small_size=48"), "small_size"),
    ],
)
def test_what_does_not_fit_is_refused(shapes, init, tmp_path, more, message):
    result = train(shapes, init, tmp_path / "qat", "--qat", *more)
    assert isinstance(result.exception, Ssd34Error)
    assert message in str(result.exception)
    assert not (tmp_path / "qat").exists()


def test_it_needs_a_detector(shapes, tmp_path):
    result = run(
        "train", "--data", shapes, "--val", shapes, "--output", tmp_path / "qat", "--qat",
        "--spec", "ssd300-resnet18",
    )  # fmt: skip
    assert "give one with --init" in str(result.exception)
