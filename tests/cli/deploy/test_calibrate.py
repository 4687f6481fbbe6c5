"""``ssd34 calibrate``, from the command line to the exported file."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ssd34.cli import PARTLY
from ssd34.core.contract import ScoreCalibration
from ssd34.evaluate.score import PRECISION_AT
from ssd34.files.checkpoint import read_checkpoint
from ssd34.files.lock import folder_locked
from tests.conftest import drawn_checkpoint, tiny_spec


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    path = tmp_path / "best.safetensors"
    dataclasses.replace(tiny_checkpoint, training={"m": np.arange(2.0)}).save(path)
    return path


def test_it_is_stored_in_the_checkpoint_and_in_what_is_exported(
    main, checkpoint, found_shapes, tmp_path
):
    before = read_checkpoint(checkpoint)
    code, out, err = main(
        "calibrate", checkpoint, "--data", found_shapes, "--json", tmp_path / "a.json"
    )
    assert (code, err) == (0, "")
    values = json.loads((tmp_path / "a.json").read_text())
    offset = values["background_offset"]
    assert f"{offset:+.3f}" in out.splitlines()[-1]
    found = read_checkpoint(checkpoint, training=True)
    assert found.score_calibration == ScoreCalibration(background_offset=offset)
    assert all(np.array_equal(found.weights[k], before.weights[k]) for k in before.weights)
    assert found.training["m"].tolist() == [0, 1]
    assert (values["fit_pictures"], values["held_out_pictures"]) == (6, 6)
    assert values["fit_sha256"] != values["held_out_sha256"]
    for when in ("before", "after"):
        told = values["held_out"][when]
        assert told["calibration"]["bins"]
        assert told["precision_at"].keys() == {str(score) for score in PRECISION_AT}
    assert values["fit"]["error_after"] <= values["fit"]["error_before"]

    # The exported file says of the other half what the report said.
    assert main("export", checkpoint, tmp_path / "a.onnx", "--tail", "none")[0] == 0
    again = ("calibrate", tmp_path / "a.onnx", "--data", found_shapes)
    copy = tmp_path / "again.safetensors"
    assert main(*again, "--output", copy, "--json", tmp_path / "b.json")[0] == 0
    second = json.loads((tmp_path / "b.json").read_text())
    assert second["background_offset"] == pytest.approx(offset, abs=0.002)
    assert main(*again)[0] == 2  # an ONNX file does not become a checkpoint


def test_pictures_to_measure_on_may_be_others(main, checkpoint, found_shapes, tmp_path):
    code, _, err = main(
        "calibrate", checkpoint, "--data", found_shapes, "--test", found_shapes, "--limit", 9,
        "--output", tmp_path / "b.safetensors", "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert code == 0, err
    values = json.loads((tmp_path / "b.json").read_text())
    assert (values["fit_pictures"], values["held_out_pictures"]) == (9, 12)
    assert read_checkpoint(checkpoint).score_calibration is None
    assert read_checkpoint(tmp_path / "b.safetensors").score_calibration is not None


def test_an_unreadable_picture_is_left_out_and_told(main, checkpoint, found_shapes, tmp_path):
    folder = shutil.copytree(found_shapes, tmp_path / "set")
    (folder / "images" / "0002.png").write_bytes(b"no picture")
    code, _, err = main("calibrate", checkpoint, "--data", folder, "--json", tmp_path / "a.json")
    assert code == PARTLY
    assert "0002.png" in err


def test_a_checkpoint_that_a_training_writes_is_left_alone(
    main, checkpoint, found_shapes, tmp_path
):
    before = checkpoint.read_bytes()
    with folder_locked(tmp_path):
        code, _, err = main("calibrate", checkpoint, "--data", found_shapes)
        assert (code, checkpoint.read_bytes()) == (2, before) and str(tmp_path) in err
        for name, expected in (("best", 2), ("last", 2), ("other", 0)):
            output = ("--output", tmp_path / f"{name}.safetensors")
            assert main("calibrate", checkpoint, "--data", found_shapes, *output)[0] == expected
        (tmp_path / "other").mkdir()
        link = tmp_path / "other" / "mine.safetensors"
        link.symlink_to(checkpoint)
        assert main("calibrate", link, "--data", found_shapes)[0] == 2
        assert checkpoint.read_bytes() == before


def test_what_cannot_be_fitted_or_written(main, checkpoint, shapes, tmp_path):
    before = checkpoint.read_bytes()
    nothing = drawn_checkpoint(tiny_spec(), read_checkpoint(checkpoint).labels)
    for name, array in nothing.weights.items():
        if name.startswith("heads.conf."):
            nothing.weights[name] = np.zeros_like(array) - 9 * name.endswith("bias")
            if name.endswith("bias"):
                nothing.weights[name].reshape(4, -1)[0] = 9
    nothing.save(tmp_path / "silent.safetensors")
    for model, arguments, fact in (
        (tmp_path / "silent.safetensors", ("--data", shapes), "0 of 0 detections"),
        (checkpoint, ("--data", shapes, "--output", tmp_path / "a.onnx"), "a.onnx"),
        (checkpoint, ("--data", shapes, "--output", tmp_path / "no" / "a.safetensors"), "no"),
        (checkpoint, ("--data", shapes, "--json", checkpoint), "best.safetensors"),
        (tmp_path / "none.safetensors", ("--data", shapes), "none.safetensors"),
    ):
        code, _, err = main("calibrate", model, *arguments)
        assert code == 2, arguments
        assert fact in err
    assert checkpoint.read_bytes() == before
