"""A training from Python: begun, stopped by its listener, resumed."""

import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pytest

import ssd34
from ssd34 import MissingExtraError, OptionError
from ssd34.files.checkpoint import read_checkpoint
from ssd34.train import step
from ssd34.train.progress import TrainingOutcome
from ssd34.train.run import read_history
from ssd34.workflows.train import Trained, TrainJob, TrainListener, describe_ending
from ssd34.workflows.training.job import weighted

SETTINGS = {
    "workers": 0, "batch_size": 4, "warmup_steps": 1, "labels": "data", "head_statistics": "frozen"
}  # fmt: skip


@pytest.fixture(scope="module")
def init(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "tiny.safetensors"
    tiny_checkpoint.save(path)
    return path


def begin(shapes, output, init, *, val=None, **more):
    return ssd34.train(
        data=shapes, val=val or shapes, output=output, init=init, epochs=2, settings=SETTINGS,
        threads=1, **more,
    )  # fmt: skip


class Stopping(TrainListener):
    """Stops after the second evaluation, and remembers what it heard."""

    def __init__(self):
        super().__init__()
        self.aps, self.facts, self.warnings, self.has_ended = [], [], [], False

    def warned(self, message):
        self.warnings.append(message)

    def begins(self, facts, history):
        self.facts, self.history = facts, list(history)

    def evaluated(self, epoch, metrics):
        self.aps.append((epoch, metrics.ap))

    def stop(self):
        return len(self.aps) == 2

    def ended(self):
        self.has_ended = True


def test_a_stopped_and_resumed_training_ends_as_a_whole_one(shapes, init, tmp_path, capfd):
    whole = begin(shapes, tmp_path / "whole", init)
    assert isinstance(whole, Trained) and whole.finished and whole.steps == 6
    heard = Stopping()
    stopped = begin(shapes, tmp_path / "parts", init, listener=heard, command="Bob's")
    assert (stopped.finished, stopped.steps) == (False, 3)
    [same] = [text for text in heard.warnings if "data split" in text]
    assert same.startswith(f"{shapes}: ")
    assert [epoch for epoch, _ in heard.aps] == [0, 1] and heard.has_ended and heard.history == []
    assert max(ap for _, ap in heard.aps) == stopped.best_ap
    assert any("epochs=2" in fact for fact in heard.facts)
    second = Stopping()
    second.__dict__["stop"] = lambda: False
    job = TrainJob(data=[str(shapes)], val=str(shapes), output=str(tmp_path / "parts"), threads=1)
    parts = ssd34.train(job, resume=True, listener=second)
    assert (parts.finished, parts.steps, parts.best_ap) == (True, 6, whole.best_ap)
    assert [record["step"] for record in second.history if record["event"] == "evaluation"] == [
        0,
        3,
    ]
    a, b = (read_checkpoint(result.last) for result in (whole, parts))
    for key, value in a.weights.items():
        np.testing.assert_array_equal(value, b.weights[key], err_msg=key)
    best = read_checkpoint(parts.weights).state
    assert parts.weights == parts.best and best["notes"]["command"] == "Bob's"
    assert parts.report is not None and parts.report.read_text().count("Finished after 6 steps")
    settings = json.loads((tmp_path / "parts" / "recipe.json").read_text())["settings"]
    assert (settings["init"], settings["batch_size"]) == (str(init), 4)
    assert capfd.readouterr() == ("", "")


def test_the_start_is_measured_whatever_happens_to_it(shapes, init, tmp_path, monkeypatch):
    """Its evaluation is made up for after a stop; a run that dies before its first checkpoint can
    begin again with the same command. A rank alone does not make it one process of several. Its
    page shows pictures that can be read and have objects."""
    output, val = tmp_path / "run", tmp_path / "val"
    shutil.copytree(shapes, val)
    (val / "images" / "0001.png").write_text("no picture")
    values = json.loads((val / "instances.json").read_text())
    crowds = [{**box, "iscrowd": int(box["image_id"] == 2)} for box in values["annotations"]]
    (val / "instances.json").write_text(json.dumps({**values, "annotations": crowds}))
    monkeypatch.setenv("RANK", "1")
    with monkeypatch.context() as patch:
        patch.setattr(step, "train_step", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(shapes, output, init, val=val)
    assert (output / "best.safetensors").exists() and not (output / "last.safetensors").exists()
    heard: list[bool] = []
    stopped = begin(
        shapes, output, init, val=val,
        listener=TrainListener(evaluating=lambda *_: heard.append(True), stop=lambda: bool(heard)),
    )  # fmt: skip
    assert (stopped.finished, stopped.steps) == (False, 0) and not stopped.best.exists()
    done = ssd34.train(data=shapes, val=val, output=output, resume=True, threads=1)
    records = read_history(output / "history.jsonl")
    assert [r["step"] for r in records if r["event"] == "evaluation"] == [0, 3, 6]
    assert done.finished and done.steps == 6
    assert done.report is not None
    shown = re.findall(r"\d{4}\.png", done.report.read_text())
    assert [*dict.fromkeys(shown)] == [f"{number:04}.png" for number in range(3, 9)]


class BegunError(Exception):
    pass


def test_classes_of_several_sets_are_joined_and_those_of_val_alone_told(shapes, tmp_path):
    sets = []
    for name in ("ball", "star"):
        shutil.copytree(shapes, tmp_path / name)
        file = tmp_path / name / "instances.json"
        file.write_text(file.read_text().replace('"disc"', f'"{name}"'))
        sets.append(tmp_path / name)
    told: list[str] = []

    def begins(facts, _history):
        raise BegunError("; ".join(facts))

    listener = TrainListener(warned=told.append, begins=begins)
    with pytest.raises(BegunError, match="4 classes"):
        ssd34.train(
            data=[shapes, sets[0]], val=sets[1], output=tmp_path / "run", epochs=1, threads=1,
            settings={"spec": "ssd300-resnet18"}, listener=listener,
        )  # fmt: skip
    assert [text for text in told if "'star'" in text and str(sets[1]) in text]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"settings": {"epochs": 3}}, "epochs"), ({"settings": {"init": 7}}, "init"),
     ({"device": "tpu"}, "tpu"), ({"threads": 0}, "threads"), ({"data": []}, "data set")],
)  # fmt: skip
def test_what_is_not_allowed_leaves_nothing_behind(shapes, tmp_path, wrong, named):
    fields = {"data": shapes, "val": shapes, "output": tmp_path / "run", "epochs": 1, **wrong}
    if "init" in wrong.get("settings", {}):
        del fields["epochs"]
    with pytest.raises(OptionError, match=named):
        ssd34.train(**fields)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_is_a_number_behind_the_last_equals_sign():
    assert weighted("a=b=0.5") == ("a=b", 0.5)
    assert weighted("a=b") == ("a=b", 1)


@pytest.mark.parametrize("module", ["jinja2", "safetensors"])
def test_what_only_the_end_needs_is_asked_for_at_the_start(shapes, tmp_path, monkeypatch, module):
    for name in (module, f"{module}.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{module}.*ssd34\[train\]"):
        begin(shapes, tmp_path / "run", "default")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_field_or_event_is_refused(shapes):
    with pytest.raises(TypeError, match="speed"):
        ssd34.train(data=shapes, val=shapes, output="run", speed=3)
    with pytest.raises(TypeError, match="finished"):
        TrainListener(finished=print)


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    state = {"step": 70, "batches_per_epoch": 10}
    dataclasses.replace(tiny_checkpoint, state=state).save(tmp_path / "best.safetensors")
    return tmp_path


def ended(folder, *, target_map=None, best_ap=0.2314, finished=True):
    outcome = TrainingOutcome(
        last=folder / "last.safetensors", best=folder / "best.safetensors", best_ap=best_ap,
        steps=80, finished=finished,
    )  # fmt: skip
    return describe_ending(outcome, target_map=target_map)


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({}, ("finished after 80 steps", "best AP 0.2314 at epoch 7")),
        ({"target_map": 0.23}, ("at epoch 7", "target AP 0.23 reached")),
        ({"target_map": 0.25}, ("at epoch 7", "target AP 0.25 not reached")),
        ({"finished": False, "best_ap": -1, "target_map": 0.2}, ("stopped", "80", "--resume")),
    ],
)
def test_the_end_says_whether_the_target_was_reached(folder, given, facts):
    text = ended(folder, **given)
    assert all(fact in text for fact in facts)


def test_what_was_best_under_another_policy_is_not_named(folder):
    assert ended(folder, best_ap=-1) == "finished after 80 steps"
