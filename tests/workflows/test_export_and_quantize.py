"""From a checkpoint to int8 files in Python; what they compute is tested in tests/deploy."""

import json
import sys

import numpy as np
import onnx
import pytest

import ssd34
from ssd34 import ExportOptions, ModelError, OptionError, QuantizeConfig
from ssd34.core.postprocess import ZOO
from ssd34.files.lock import folder_locked
from ssd34.workflows.quantize import QuantizeListener

EASY = QuantizeConfig.from_dict({
    "calibration": {"pictures": 4}, "quantization": {"ranges": "minmax"}, "rounds": 2,
    "criterion": {"max_drop": 0.9, "min_speedup": 0.001},
})  # fmt: skip
STRICT = EASY.changed(
    {"quantization": {"ranges": ["minmax", "percentile"]}, "criterion": {"min_speedup": 99}}
)


class Recorder(QuantizeListener):
    def __init__(self):
        self.trials, self.warnings, self.steps, self.datasets = [], [], set(), []
        self.kept = None

    def dataset_opened(self, dataset):
        self.datasets.append(dataset)

    def warned(self, message):
        self.warnings.append(message)

    def progressed(self, step, done, total):
        assert 0 < done <= total
        self.steps.add(step)

    def tried(self, trial):
        self.trials.append(trial)

    def interrupted(self, done, total, kept):
        self.kept = (done, total, kept)


def test_a_checkpoint_is_exported(tiny_checkpoint, tiny_model, tmp_path, capfd):
    tiny_checkpoint.save(tmp_path / "tiny.safetensors")
    made = ssd34.export(tmp_path / "tiny.safetensors", tmp_path / "tiny.onnx")
    assert made.path.read_bytes() == tiny_model.read_bytes()
    assert made.outputs == ("bboxes", "labels", "scores")
    raw = ssd34.export(str(made.path), str(tmp_path / "raw.onnx"), ExportOptions(policy=None))
    assert raw.outputs == ("loc", "conf") and raw.path == tmp_path / "raw.onnx"
    assert capfd.readouterr() == ("", "")


def test_a_model_is_quantized(tiny_model, found_shapes, tmp_path, capfd):
    ears = Recorder()
    found = ssd34.quantize(tiny_model, found_shapes, tmp_path / "out", EASY, listener=ears)
    path = found.files["12-int8"]
    assert path == tmp_path / "out" / "tiny-12-int8.onnx" and not found.removed
    assert [t.number for t in ears.trials] == [1]
    assert found.outcomes["12-int8"].accepted == ears.trials[0]
    assert ears.steps == {"calibrating", "measuring AP", "timing"} and len(ears.datasets) == 1
    picture = np.zeros((50, 60, 3), np.uint8)
    assert ssd34.load(path).detect(picture, score=0).width == 60
    with pytest.raises(ModelError, match="QuantizeLinear"):
        ssd34.quantize(path, found_shapes, tmp_path / "again", EASY)
    assert not (tmp_path / "again").exists()
    assert capfd.readouterr() == ("", "")


def test_the_threshold_and_what_was_seen_are_in_the_file_and_its_proof(
    tiny_checkpoint, found_shapes, tmp_path
):
    """The float file's own threshold, unless the settings or a named policy say otherwise."""
    model, out = tmp_path / "low.onnx", tmp_path / "out"
    tiny_checkpoint.save(tmp_path / "low.safetensors")
    low = ExportOptions(policy=ZOO.replace(score_threshold=0.01))
    ssd34.export(tmp_path / "low.safetensors", model, low)

    def quantize(output, model=model, resume=False, score=None, **fields):
        settings = EASY.changed(
            {"quantization": {"score_threshold": score}, "seen": [str(found_shapes)]}
        )
        found = ssd34.quantize(model, found_shapes, output, settings, resume=resume, **fields)
        path = found.files["12-int8"]
        graph = onnx.load(path).graph
        (threshold,) = (t for t in graph.initializer if t.name == "tail.score_threshold")
        proof = json.loads(path.with_suffix(".json").read_text())
        written = float(onnx.numpy_helper.to_array(threshold)[0])
        assert written == pytest.approx(proof["subject"]["score_threshold"], rel=1e-6)
        return found, proof

    found, proof = quantize(out)
    assert proof["subject"]["score_threshold"] == 0.01
    assert found.seen == found.pictures == proof["subject"]["seen_in_training"] == 8
    with pytest.raises(OptionError, match="score_threshold"):
        quantize(out, resume=True, score=0.02)
    _, again = quantize(out, resume=True, score=0.01)
    assert again["trial"] == proof["trial"]
    for name, fields, expected in (
        ("set", {"score": 0.02}, 0.02),
        ("named", {"policy": "zoo"}, 0.05),
        ("checkpoint", {"model": tmp_path / "low.safetensors"}, 0.05),
    ):
        _, proof = quantize(tmp_path / name, **fields)
        assert proof["subject"]["score_threshold"] == expected


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"limit": 0}, "limit"),
        ({"threads": 0}, "threads"),
        ({"policy": "mlperf"}, "mlperf"),
        ({"policy": "none"}, "none"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    tiny_model, found_shapes, tmp_path, fields, fact
):
    ears = Recorder()
    with pytest.raises(OptionError, match=fact):
        ssd34.quantize(tiny_model, found_shapes, tmp_path / "out", listener=ears, **fields)
    assert not (tmp_path / "out").exists() and not ears.steps
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="file"):
        ssd34.quantize(tiny_model, found_shapes, tmp_path / "file")


def test_an_interruption_keeps_the_trials(tiny_model, found_shapes, tmp_path, monkeypatch):
    class Impatient(Recorder):
        def tried(self, trial):
            super().tried(trial)
            raise KeyboardInterrupt

    out, ears = tmp_path / "out", Impatient()
    with pytest.raises(KeyboardInterrupt):
        ssd34.quantize(tiny_model, found_shapes, out, STRICT, listener=ears)
    assert ears.kept == (1, 20, out)
    with folder_locked(out):  # it is free again
        pass
    with pytest.raises(OptionError, match=r"trials\.jsonl"):
        ssd34.quantize(tiny_model, found_shapes, out, STRICT)
    again = Recorder()
    found = ssd34.quantize(tiny_model, found_shapes, out, STRICT, resume=True, listener=again)
    assert [trial.number for trial in again.trials] == [2]
    assert "calibrating" not in again.steps
    assert not found.files
    trials = found.outcomes["12-int8"].trials
    assert trials == (*ears.trials, *again.trials)
    assert not list(out.glob("*.onnx"))
    # What is broken is made again; what needs an extra that is not there is left out.
    (out / "calibration.npz").write_bytes(b"broken")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    last = Recorder()
    ssd34.quantize(tiny_model, found_shapes, out, STRICT, resume=True, listener=last)
    assert last.steps == {"calibrating"} and "matplotlib" in last.warnings[-1]
