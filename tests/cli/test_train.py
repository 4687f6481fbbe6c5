import itertools
import json
import shutil
import signal

import pytest
import torch
from full_size_chain import drawn_benchmark_weights

from ssd34.core.spec import named_spec
from ssd34.errors import (
    CheckpointError,
    DatasetError,
    DivergenceError,
    OptionError,
    TrainingError,
)
from ssd34.files.checkpoint import read_checkpoint
from ssd34.network.pretrained import has_unfolded_norm
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES, TINY_LABELS, shapes_dataset
from tests.support.cli import invoke, read_document, run_commands
from tests.support.refusals import assert_facts
from tests.support.training import QUICK

SMALL = ("--set", "small_size=64", "--set", "small_share=1")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Four pictures to measure on."""
    return shapes_dataset(tmp_path_factory.mktemp("few") / "set", pictures=4, seed=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes, few):
    """A run of an epoch from random weights."""
    output = tmp_path_factory.mktemp("runs") / "first"
    result = train(shapes, few, output, "--spec", "ssd300-resnet18", *SMALL)
    assert "finished after 3 steps" in result.output
    assert "random weights" in result.stderr
    assert "4 of its 6 levels" in result.output
    assert "measured on, so" not in result.output
    return output


def train(data, val, output, *more):
    return invoke(
        "train", "--data", data, "--val", val, "--output", output, "--epochs", "1", *QUICK, *more
    )


def resume(data, val, output, *more):
    return invoke(
        "train", "--data", data, "--val", val, "--output", output, "--resume", "--workers", "0",
        "--threads", "1", *more,
    )  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_train_export_detect_evaluate(trained, few, tmp_path):
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
    invoke("evaluate", model, "--data", few, "--json", tmp_path / "ap.json")
    report = json.loads((tmp_path / "ap.json").read_text())
    history = [json.loads(x) for x in (trained / "history.jsonl").read_text().splitlines()]
    trained_ap = next(r for r in history if r["event"] == "evaluation")["summary"]["AP"]
    assert report["summary"]["AP"] == pytest.approx(trained_ap, abs=0.02)


def test_a_run_is_not_overwritten_and_resumes(trained, shapes, few):
    with pytest.raises(OptionError, match=f"{trained}.*--resume"):
        train(shapes, few, trained)
    assert "finished after 3 steps" in resume(shapes, few, trained, "--epochs", "1").output


def test_what_needs_no_torch_is_told_before_it_is_loaded(shapes, tiny_file, tmp_path):
    broken, full = tmp_path / "broken.json", tmp_path / "full"
    broken.write_text("{")
    full.mkdir()
    shutil.copy(tiny_file, full / "last.safetensors")
    usual = {"--data": shapes, "--val": shapes, "--output": tmp_path / "run"}
    wrong = [("--data", "nowhere"), ("--data", "nowhere=2"), ("--val", broken), ("--set", "hue=7"),
             ("--set", "no_such=1"), ("--init", tmp_path / "none.safetensors"),
             ("--init", f"{tmp_path / 'none.onnx'}@backbone"), ("--recipe", "no-such"),
             ("--init", full), ("--output", full)]  # fmt: skip
    commands = [
        ("train", *itertools.chain(*{**usual, option: value}.items())) for option, value in wrong
    ]
    ended, errors = run_commands(
        *commands, (*commands[-1], "--resume", "--preview", "1"),
        first="import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))",
    )  # fmt: skip
    assert {code for code, _ in ended} == {2}
    *told, loaded = errors.splitlines()
    assert loaded == "False"
    for line, (_, value) in zip(told, [*wrong, ("", "--preview")], strict=True):
        assert line.startswith("error: ")
        assert_facts(line, str(value).split("=")[0].removesuffix("@backbone"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "error"), [("best.safetensors", TrainingError), ("last.safetensors", CheckpointError)]
)
def test_weights_alone_are_no_run(tiny_file, shapes, tmp_path, name, error):
    """Neither are they overwritten, nor can a run go on from them."""
    shutil.copy(tiny_file, tmp_path / name)
    with pytest.raises(OptionError, match=str(tmp_path)):
        train(shapes, shapes, tmp_path)
    with pytest.raises(error, match=str(tmp_path)):
        resume(shapes, shapes, tmp_path)
    assert contents(tmp_path) == {name: tiny_file.read_bytes()}


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
def test_a_resumed_run_takes_no_other_settings(trained, shapes, few, more, named):
    before = contents(trained)
    with pytest.raises(OptionError) as caught:
        resume(shapes, few, trained, *more)
    assert named in str(caught.value)
    assert f"--init {trained / 'last.safetensors'}" in str(caught.value)
    assert contents(trained) == before


def test_another_length_is_written_down_once_the_run_is_resumed(shapes, few, tiny_file, tmp_path):
    output = tmp_path / "run"
    train(shapes, few, output, "--init", tiny_file)
    before = json.loads((output / "recipe.json").read_text())
    for data, val, changed in ((shapes, shapes, "--val"), (few, few, "--data|batches")):
        with pytest.raises(TrainingError, match=changed):
            resume(data, val, output, "--epochs", "2")
    assert json.loads((output / "recipe.json").read_text()) == before
    resume(shapes, few, output, "--epochs", "2", "--set", "cache_mb=1")
    after = json.loads((output / "recipe.json").read_text())
    new = {"epochs": 2, "cache_mb": 1}
    assert after["settings"] == {**before["settings"], **new}
    assert after["changed"] == {**before["changed"], **new}
    assert read_checkpoint(output / "last.safetensors").state["notes"]["recipe"] == after
    assert "<td>epochs</td><td>2</td><td>changed</td>" in (output / "report.html").read_text()


def test_fine_tuning_to_other_classes(trained, tmp_path):
    """From a checkpoint, a class list of which two are known; what was settled is written down."""
    renamed = shapes_dataset(tmp_path / "renamed", pictures=2)
    text = (renamed / "instances.json").read_text()
    (renamed / "instances.json").write_text(text.replace('"disc"', '"ball"'))
    output = tmp_path / "run"
    train(renamed, renamed, output, "--recipe", "fine-tune", "--set", "hue=0", *SMALL,
          "--init", trained / "best.safetensors")  # fmt: skip
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


def test_folded_batch_norm_stays_frozen(shapes, few, tiny_model, tmp_path):
    """Its stand-in has no statistics: with those of a batch the network would be another one."""
    train(shapes, few, tmp_path / "run", "--init", tiny_model, "--lr", "1e-9")
    last = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert last.state["options"]["head_statistics"] == "frozen"
    assert has_unfolded_norm(last.weights, "backbone.") and has_unfolded_norm(
        last.weights, "extras."
    )
    for key in ("backbone_statistics", "head_statistics"):
        with pytest.raises(OptionError, match=f"{key}=batch"):
            train(shapes, few, tmp_path / "other", "--init", tiny_model, "--set", f"{key}=batch")


@pytest.mark.parametrize(
    ("more", "error", "facts"),
    [
        (("--set", "labels=coco"), DatasetError, r"'square'.*labels=data"),
        (("--init", "missing.pth"), CheckpointError, r"missing\.pth"),
        (("--minutes", "1"), OptionError, "epochs or minutes"),
        (("--batch", "0"), OptionError, "batch_size.* 1 .*0"),
        (("--set", "batch_size=4"), OptionError, "batch_size.*--set"),
        (("--set", "small_size=301"), OptionError, "small_size=301.*300"),
        (("--data", "SHAPES=0"), OptionError, "--data"),
        (("--data", "EMPTY"), DatasetError, "empty"),
        pytest.param(
            ("--device", "cuda"), OptionError, "CUDA",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_bad_input(shapes, few, tmp_path, more, error, facts):
    names = {"SHAPES=0": f"{shapes}=0", "EMPTY": tmp_path / "empty"}
    shapes_dataset(tmp_path / "empty", pictures=0)
    with pytest.raises(error, match=facts):
        invoke(
            "train", *(("--data", shapes) if "--data" not in more else ()), "--val", few,
            "--spec", "ssd300-resnet18", "--epochs", "1", "--output", tmp_path / "run",
            *(("--batch", "4") if "--batch" not in more else ()), *(names.get(m, m) for m in more),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_ends_one_of_several_processes_at_once(monkeypatch, tmp_path, processes):
    """Which may wait for the others for ever; a process alone tidies up."""
    seen = []

    def train(*_, **__):
        seen.append(signal.getsignal(signal.SIGTERM))
        raise OptionError("seen")

    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr("ssd34.workflows.train.train", train)
    with pytest.raises(OptionError, match="seen"):
        invoke("train", "--data", "a", "--val", "b", "--output", tmp_path)
    assert (seen == [signal.SIG_DFL]) == (processes == "2")


def test_convert_writes_a_checkpoint_of_ours(tmp_path):
    spec = named_spec("ssd300-resnet18")
    torch.save({"model": drawn_benchmark_weights(spec)}, tmp_path / "ssd.pth")
    output = tmp_path / "ssd.safetensors"
    result = invoke("convert", tmp_path / "ssd.pth", output, "--spec", "ssd300-resnet18")
    assert "ssd300-resnet18, 80 classes" in result.output and "assumed" not in result.stderr
    assert read_checkpoint(output).spec == spec
    with pytest.raises(CheckpointError, match="--spec"):
        invoke("convert", tmp_path / "ssd.pth", output, "--spec", "ssd300-resnet34")
    torch.save(drawn_benchmark_weights(spec.replace(num_classes=2)), tmp_path / "two.pth")
    invoke("convert", tmp_path / "two.pth", tmp_path / "two.safetensors")
    assert read_checkpoint(tmp_path / "two.safetensors").labels.names == ("class 1", "class 2")
    result = invoke("convert", tmp_path / "ssd.pth", output, "--json")
    assert read_document("convert", result)["assumed"] is True
    assert "assumed ssd1200-resnet18" in result.stderr
    assert "--spec ssd300-resnet18" in result.stderr
    with pytest.raises(OptionError, match=r"\.safetensors"):
        invoke("convert", tmp_path / "ssd.pth", tmp_path / "ssd.bin")


def test_a_run_that_diverges_leaves_a_page(shapes, few, tiny_file, tmp_path):
    """One step an epoch, so that there is a checkpoint before."""
    with pytest.raises(DivergenceError, match="training diverged"):
        invoke(
            "train", "--data", shapes, "--val", few, "--output", tmp_path, "--epochs", "9",
            "--init", tiny_file, "--batch", "12", "--workers", "0", "--threads", "1", "--lr",
            "1e10", *(f"--set={x}" for x in ("warmup_steps=0", "optimizer=sgd",
                                             "gradient_clip=none")),
        )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "training diverged" in page
    assert "the 10 best detections" in page
