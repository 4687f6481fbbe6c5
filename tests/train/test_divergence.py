import dataclasses

import pytest
import torch

from ssd34.datasets.open import open_dataset
from ssd34.errors import TrainingError
from ssd34.files.checkpoint import read_checkpoint
from ssd34.network.ssd import SSD
from ssd34.train import step as step_module
from ssd34.train.loss import compute_loss
from ssd34.train.run import TrainingRun, read_history
from ssd34.train.step import LossWatch, Step
from ssd34.train.validate import evaluate_network
from tests.conftest import TINY_LABELS, tiny_spec
from tests.support.training import run, stop_after


def exploded_at(losses):
    """The number, from 1, of the loss at which a watch stops a run; 0: it goes on."""
    watch = LossWatch()
    steps = [
        Step(pictures=1, loss=loss, box_loss=0, class_loss=loss, gradient_norm=1) for loss in losses
    ]
    return next((n for n, step in enumerate(steps, start=1) if watch.find_wrong(step)), 0)


@pytest.mark.parametrize(
    ("losses", "stopped"),
    [
        ([9.8, 4189, 1817, 2330, 900, 385], 2),  # a rate far too high, from the first step on
        ([3.0] * 30 + [900.0] * 3, 31),
        ([3.0] * 10 + [60.0] * 30, 20),
        ([20.0, 18.0, 60.0, 25.0, 15.0, *[8.0] * 50], 0),  # the warm-up of a healthy run
        ([0.02, *[0.4] * 50], 0),
        ([2.0] * 40 + [12.0] + [2.0] * 40, 0),
    ],
)
def test_an_explosion_is_seen_from_the_first_steps_on(losses, stopped):
    assert exploded_at(losses) == stopped


def growing_from(first, factor):
    """The loss, times a factor from the first-th call on."""
    calls: list[None] = []

    def growing(*args, **keywords):
        loss = compute_loss(*args, **keywords)
        calls.append(None)
        return type(loss)(*(part * (factor if len(calls) >= first else 1.0) for part in loss))

    return growing


def test_a_resumed_run_remembers_how_low_the_loss_was(tmp_path, shapes, monkeypatch):
    """What explodes right after a resume is seen as it is without the interruption."""
    options = {"epochs": 20, "learning_rate": 1e-6, "evaluate_every": 20}
    run(tmp_path, shapes, listener=stop_after(5), **options)
    was = read_checkpoint(tmp_path / "last.safetensors").state["loss"]
    assert was["steps"] == 5
    assert 0 < was["lowest"] <= was["mean"]
    monkeypatch.setattr(step_module, "compute_loss", growing_from(1, 1000.0))
    with pytest.raises(TrainingError, match=rf"grown from {was['lowest']:.3g} to"):
        run(tmp_path, shapes, resume=True, **options)


def test_a_checkpoint_that_knows_neither_loss_nor_pictures_still_resumes(tmp_path, shapes):
    run(tmp_path, shapes, listener=stop_after(4))
    path = tmp_path / "last.safetensors"
    old = read_checkpoint(path, training=True)
    state = {key: value for key, value in old.state.items() if key not in ("loss", "pictures")}
    dataclasses.replace(old, state=state).save(path)
    assert run(tmp_path, shapes, resume=True).finished


WILD = {
    "optimizer": "sgd", "learning_rate": 1e10, "warmup_steps": 0, "gradient_clip": None,
    "epochs": 20,
}  # fmt: skip


def test_divergence_before_any_checkpoint_does_not_advise_to_resume(tmp_path, shapes):
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        run(tmp_path, shapes, **WILD)
    assert not (tmp_path / "last.safetensors").exists()
    [stopped] = read_history(tmp_path / "history.jsonl")
    assert stopped["event"] == "diverged" and "no checkpoint yet" in stopped["reason"]


def test_a_checkpoint_of_broken_weights_is_called_so(tmp_path, shapes):
    """One step an epoch: they are saved and measured, before they are tried."""
    for resume in (False, True):
        with pytest.raises(TrainingError, match="the very weights"):
            run(tmp_path, shapes, resume=resume, batch_size=12, **WILD)
    assert read_checkpoint(tmp_path / "last.safetensors").state["step"] == 1


@pytest.mark.parametrize(("factor", "message"), [(1000.0, "grown from"), (1e30, "loss is")])
def test_weights_that_explode_do_not_replace_good_ones(
    tmp_path, shapes, monkeypatch, factor, message
):
    monkeypatch.setattr(step_module, "compute_loss", growing_from(8, factor))
    with pytest.raises(TrainingError, match=rf"{message}.*step 6.*--init"):
        run(tmp_path, shapes, epochs=20, learning_rate=1e-6)
    assert read_checkpoint(tmp_path / "last.safetensors").state["step"] == 6


def test_a_doubtful_moment_only_delays_the_checkpoint(tmp_path, shapes, monkeypatch):
    """The loss of step 3, the first epoch's end, is five times the others'."""
    first, again = (growing_from(3, 5.0), growing_from(4, 5.0))

    def once(*args, **keywords):
        loss, other = first(*args, **keywords), again(*args, **keywords)
        return loss if loss.total != other.total else compute_loss(*args, **keywords)

    saved = []
    save = TrainingRun.save_last

    def noted(of):
        saved.append(of.step)
        save(of)

    monkeypatch.setattr(step_module, "compute_loss", once)
    monkeypatch.setattr(TrainingRun, "save_last", noted)
    run(tmp_path, shapes, learning_rate=1e-6)
    assert saved == [4, 6, 6]


def test_boxes_that_overflow_are_measured_without_a_warning(shapes):
    network = SSD(tiny_spec())
    for location in network.heads.loc:
        assert isinstance(location, torch.nn.Conv2d)
        torch.nn.init.constant_(location.weight, 1e30)
    dataset = open_dataset(shapes)
    metrics = evaluate_network(network, TINY_LABELS, dataset, device=torch.device("cpu"))
    assert metrics is not None
    assert metrics.ap == 0
