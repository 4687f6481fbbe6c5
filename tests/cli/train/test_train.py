import json
import os
import shutil
import signal
import subprocess
import sys
import time

import click
import pytest
import torch
from click.testing import CliRunner

from ssd34.cli.app import commands
from ssd34.errors import (
    CheckpointError,
    DatasetError,
    DivergenceError,
    ModelError,
    OptionError,
    TrainingError,
)
from ssd34.files.checkpoint import read_checkpoint
from ssd34.network.from_onnx import has_unfolded_norm
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES, TINY_LABELS, shapes_dataset
from tests.support.golden import drawn_benchmark_weights

TINY = ("--batch", "4", "--workers", "0", "--set", "warmup_steps=1",
        "--set", "small_size=64", "--set", "small_share=1")  # fmt: skip
QUICK = ("--spec", "ssd300-resnet18", *TINY)


def invoke(*arguments):
    """Run a command in this process; deliberate errors are raised, as main() sees them."""
    return CliRunner().invoke(
        commands, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes):
    output = tmp_path_factory.mktemp("runs") / "first"
    result = invoke(
        "train", "--data", shapes, "--val", shapes, "--output", output, "--epochs", "1", *QUICK
    )
    assert "finished after 3 steps" in result.output
    assert "warning: start: random weights" in result.stderr
    assert "warning: at 64 pixels the network has only 4 of its 6 levels" in result.output
    return output


def test_train_export_detect_evaluate(trained, shapes, tmp_path):
    checkpoint = read_checkpoint(trained / "last.safetensors")
    assert checkpoint.labels == TINY_LABELS
    assert checkpoint.spec.head_norm
    assert checkpoint.state["notes"]["start"] == "random"
    assert checkpoint.state["options"]["epochs"] == 1
    model = tmp_path / "shapes.onnx"
    result = invoke("export", trained / "last.safetensors", model, "--weights", "int8")
    assert "outputs bboxes, labels, scores" in result.output
    found = Detector.load(model).detect(EXAMPLES / "coffee.jpg", score=0)
    assert set(found.names) <= set(TINY_LABELS.names)
    invoke("evaluate", model, "--data", shapes, "--json", tmp_path / "ap.json")
    report = json.loads((tmp_path / "ap.json").read_text())
    history = [json.loads(x) for x in (trained / "history.jsonl").read_text().splitlines()]
    trained_ap = next(r for r in history if r["event"] == "evaluation")["summary"]["AP"]
    assert report["summary"]["AP"] == pytest.approx(trained_ap, abs=0.02)


def test_a_run_is_not_overwritten_and_resumes(trained, shapes):
    arguments = ("train", "--data", shapes, "--val", shapes, "--output", trained, *QUICK)
    with pytest.raises(OptionError, match=r"already holds a run; add --resume"):
        invoke(*arguments, "--epochs", "1")
    result = invoke(*arguments[:7], "--epochs", "1", "--workers", "0", "--resume")
    assert "finished after 3 steps" in result.output


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_weights_alone_are_no_run(trained, shapes, tmp_path, name):
    """Neither are they overwritten, nor can a run go on from them."""
    shutil.copy(trained / "best.safetensors", tmp_path / name)
    before = (tmp_path / name).read_bytes()
    arguments = ("train", "--data", shapes, "--val", shapes, "--output", tmp_path, *QUICK)
    with pytest.raises(OptionError, match=r"(holds|already holds) .*another folder"):
        invoke(*arguments, "--epochs", "1")
    expected = CheckpointError if name.startswith("last") else TrainingError
    with pytest.raises(expected, match=r"holds weights alone.*--init|nothing to resume"):
        invoke(*arguments[:7], "--workers", "0", "--resume")
    assert (tmp_path / name).read_bytes() == before


def test_a_converted_checkpoint_is_no_run(shapes, tiny_checkpoint, tmp_path):
    tiny_checkpoint.save(tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match=r"holds weights alone.*--init"):
        invoke("train", "--data", shapes, "--val", shapes, "--output", tmp_path, "--resume")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--spec", "ssd300-resnet18"), "spec=ssd300-resnet18"),
        (("--recipe", "small-data"), "--recipe"),
        (("--init", "default"), "init=default"),
        (("--batch", "4"), "batch_size=4"),
        (("--lr", "1e-3"), "learning_rate=0.001"),
        (("--set", "labels=data"), "labels=data"),
        (("--qat",), "--qat"),
        (("--preview", "2"), "--preview"),
    ],
)
def test_a_resumed_run_takes_no_other_settings(trained, shapes, more, named):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    with pytest.raises(OptionError) as caught:
        invoke("train", "--data", shapes, "--val", shapes, "--output", trained, "--resume", *more)
    assert named in str(caught.value)
    assert f"--init {trained / 'last.safetensors'}" in str(caught.value)
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_another_length_is_written_down_once_the_run_is_resumed(trained, shapes, tmp_path):
    output = shutil.copytree(trained, tmp_path / "run")
    before = json.loads((output / "recipe.json").read_text())
    other = shapes_dataset(tmp_path / "other", pictures=3, seed=1)
    for data, val in ((shapes, other), (other, shapes)):
        with pytest.raises(TrainingError, match=r"began with (--val|--data|batches)"):
            invoke("train", "--data", data, "--val", val, "--output", output, "--resume",
                   "--epochs", "2", "--workers", "0")  # fmt: skip
    assert json.loads((output / "recipe.json").read_text()) == before
    invoke("train", "--data", shapes, "--val", shapes, "--output", output, "--resume",
           "--epochs", "2", "--workers", "0", "--set", "cache_mb=1")  # fmt: skip
    after = json.loads((output / "recipe.json").read_text())
    new = {"epochs": 2, "cache_mb": 1}
    assert after["settings"] == {**before["settings"], **new}
    assert after["changed"] == {**before["changed"], **new}
    assert read_checkpoint(output / "last.safetensors").state["notes"]["recipe"] == after
    assert "<td>epochs</td><td>2</td><td>changed</td>" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (("--freeze", "2"), "frozen_stages=2"), (("--ema=0.9",), "ema_decay=0.9"),
        (("--no-head-norm",), "head_norm=false"), (("--tensorboard",), "tensorboard=true"),
        (("--coco-names",), "coco_names=true"), (("--global-batch", "8"), "batch_size=8"),
        (("--target-map", "0.23"), "target_map=0.23"),
    ],
)  # fmt: skip
def test_a_former_option_names_its_setting(tmp_path, former, now):
    with pytest.raises(OptionError) as caught:
        invoke("train", "--data", "a", "--val", "a", "--output", tmp_path, *former)
    assert str(caught.value).endswith(f"--set {now}")


def test_what_is_no_option_is_refused(tmp_path):
    with pytest.raises(click.NoSuchOption):
        invoke("train", "--data", "a", "--val", "a", "--output", tmp_path, "--speed", "3")


def test_fine_tuning_to_other_classes(trained, tmp_path):
    """From a checkpoint, a class list of which two are known; what was settled is written down."""
    renamed = shapes_dataset(tmp_path / "renamed", pictures=2)
    text = (renamed / "instances.json").read_text()
    (renamed / "instances.json").write_text(text.replace('"disc"', '"ball"'))
    output = tmp_path / "run"
    invoke(
        "train", "--data", renamed, "--val", renamed, "--recipe", "fine-tune", *TINY, "--epochs",
        "1", "--init", trained / "best.safetensors", "--output", output, "--set", "hue=0",
    )  # fmt: skip
    checkpoint = read_checkpoint(output / "last.safetensors")
    assert checkpoint.labels.names == ("square", "ball", "cross")
    assert checkpoint.spec.name == "ssd300-resnet18"
    notes = checkpoint.state["notes"]
    assert notes["start"] == (
        "weights from best.safetensors; classes that it knows: square, cross; new: 1"
    )
    written = json.loads((output / "recipe.json").read_text())
    assert written == notes["recipe"]
    assert written["recipe"] == "fine-tune"
    assert written["changed"]["hue"] == 0
    assert written["settings"]["head_statistics"] == "frozen"


def test_folded_batch_norm_stays_frozen(shapes, tiny_model, tmp_path):
    """Its stand-in has no statistics: with those of a batch the network would be another one."""
    arguments = ("train", "--data", shapes, "--val", shapes, "--init", tiny_model, "--epochs", "1",
                 "--batch", "4", "--workers", "0", "--lr", "1e-9", "--output")  # fmt: skip
    invoke(*arguments, tmp_path / "run")
    last = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert last.state["options"]["head_statistics"] == "frozen"
    assert has_unfolded_norm(last.weights, "backbone.") and has_unfolded_norm(
        last.weights, "extras."
    )
    for key in ("backbone_statistics", "head_statistics"):
        with pytest.raises(OptionError, match=f"{key}=batch"):
            invoke(*arguments, tmp_path / "other", "--set", f"{key}=batch")


def test_bad_input(shapes, tmp_path):
    run = ("--output", tmp_path / "run", *QUICK, "--epochs", "1")
    data = ("--data", shapes, "--val", shapes)
    with pytest.raises(DatasetError, match=r"nowhere: no such data set; expected a folder or zip"):
        invoke("train", "--data", tmp_path / "nowhere", "--val", shapes, *run)
    with pytest.raises(DatasetError, match=r"unknown class name 'square'.*labels=data"):
        invoke("train", *data, *run, "--set", "labels=coco")
    with pytest.raises(CheckpointError, match=r"missing\.pth: no such"):
        invoke("train", *data, *run, "--init", tmp_path / "missing.pth")
    with pytest.raises(OptionError, match=r"either epochs or minutes"):
        invoke("train", *data, *run, "--minutes", "1")
    with pytest.raises(OptionError, match=r"expected batch_size .* from 1 to .*, got 0"):
        invoke("train", *data, *run, "--batch", "0")
    with pytest.raises(OptionError, match=r"expected batch_size once, got it again as --set"):
        invoke("train", *data, *run, "--set", "batch_size=4")
    with pytest.raises(OptionError, match=r"unknown recipe 'bench'; expected small-data"):
        invoke("train", *data, *run, "--recipe", "bench")
    with pytest.raises(OptionError, match=r"weight > 0 in --data"):
        invoke("train", "--data", f"{shapes}=0", "--val", shapes, *run)
    with pytest.raises(TrainingError, match=r"nothing to resume"):
        invoke("train", *data, *run[:2], "--resume")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match=r"no CUDA device"):
            invoke("train", *data, *run, "--device", "cuda")
    empty = shapes_dataset(tmp_path / "empty", pictures=0)
    with pytest.raises(DatasetError, match=r"no usable picture"):
        invoke("train", "--data", empty, "--val", shapes, *run)


def test_ctrl_c_saves_and_the_run_goes_on(shapes, tmp_path):
    output = tmp_path / "run"
    command = [
        sys.executable, "-m", "ssd34", "train", "--data", str(shapes), "--val", str(shapes),
        "--output", str(output), *QUICK, "--epochs", "1000", "--threads", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        history = output / "history.jsonl"
        deadline = time.monotonic() + 120
        while not (history.exists() and b"evaluation" in history.read_bytes()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"go on with --resume" in out
    assert b"Traceback" not in err
    steps = read_checkpoint(output / "last.safetensors").state["step"]
    assert steps >= 3
    resumed = invoke(
        "train", "--data", shapes, "--val", shapes, "--output", output, "--resume",
        "--epochs", steps // 3 + 1, "--workers", "0",
    )  # fmt: skip
    assert "finished" in resumed.output


def test_convert_writes_a_checkpoint_of_ours(tmp_path):
    from ssd34.core.spec import named_spec

    spec = named_spec("ssd300-resnet18")
    torch.save({"model": drawn_benchmark_weights(spec)}, tmp_path / "ssd.pth")
    output = tmp_path / "ssd.safetensors"
    result = invoke("convert", tmp_path / "ssd.pth", output, "--spec", "ssd300-resnet18")
    assert "ssd300-resnet18, 80 classes" in result.output and "assumed" not in result.stderr
    assert read_checkpoint(output).spec == spec
    with pytest.raises(CheckpointError, match=r"another network.*name .* with --spec$"):
        invoke("convert", tmp_path / "ssd.pth", output, "--spec", "ssd300-resnet34")
    result = invoke("convert", tmp_path / "ssd.pth", output)
    assert "assumed ssd1200-resnet18" in result.stderr
    assert "--spec ssd300-resnet18" in result.stderr
    with pytest.raises(OptionError, match=r"ends in \.safetensors"):
        invoke("convert", tmp_path / "ssd.pth", tmp_path / "ssd.bin")


def test_export_refuses_before_writing(trained, tmp_path):
    with pytest.raises(OptionError, match=r"unknown opset 9"):
        invoke("export", trained / "last.safetensors", tmp_path / "x.onnx", "--opset", "9")
    with pytest.raises(OptionError, match=r"does not exist; make it first"):
        invoke("export", trained / "last.safetensors", tmp_path / "no" / "x.onnx")
    with pytest.raises(ModelError, match=r"coffee\.jpg: not an ONNX file"):
        invoke("export", EXAMPLES / "coffee.jpg", tmp_path / "x.onnx")
    (tmp_path / "ssd.pth").write_bytes(b"torch")
    with pytest.raises(OptionError, match=r"ssd34 convert"):
        invoke("export", tmp_path / "ssd.pth", tmp_path / "x.onnx")
    (tmp_path / "ssd.pth").unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_leaves_a_page(shapes, tmp_path):
    """One step an epoch, so that there is a checkpoint before."""
    with pytest.raises(DivergenceError, match="training diverged"):
        invoke(
            "train", "--data", shapes, "--val", shapes, "--output", tmp_path, "--epochs", "9",
            "--spec", "ssd300-resnet18", "--batch", "12", "--workers", "0", "--lr", "1e10",
            *(f"--set={x}" for x in ("warmup_steps=0", "small_size=64", "small_share=1",
                                     "optimizer=sgd", "gradient_clip=none")),
        )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "training diverged" in page
    assert "the 10 best detections" in page
