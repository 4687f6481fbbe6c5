import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import MLPERF, ZOO, postprocess
from ssd34.datasets.dataset import Problem
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, OptionError, TrainingError
from ssd34.files.checkpoint import Checkpoint, read_checkpoint
from ssd34.network.ssd import SSD, load_weights
from ssd34.train import validate
from ssd34.train.examples import loader as loader_module
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import make_training_sets
from ssd34.train.progress import TrainListener
from ssd34.train.run import describe_pictures, find_other_pictures, read_history
from ssd34.train.step import make_optimizer, set_training, train_step
from ssd34.train.validate import evaluate_network
from tests.conftest import TINY_LABELS, shapes_dataset, tiny_spec
from tests.support.training import (
    assert_same_checkpoints,
    evaluations_of,
    fast,
    loader_of,
    run,
    stop_after,
)


@pytest.mark.parametrize(
    ("stops", "changes"), [((1, 2), {}), ((4,), {"optimizer": "sgd", "matcher": "atss"})]
)
def test_resumed_training_ends_with_the_same_weights_bit_for_bit(tmp_path, shapes, stops, changes):
    """Whatever a crash has left behind the last checkpoint in the history."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(whole, shapes, **changes)
    assert (expected.steps, expected.finished) == (6, True)
    for number, steps in enumerate(stops):
        first = run(parts, shapes, resume=number > 0, listener=stop_after(steps), **changes)
        assert (first.steps, first.finished) == (sum(stops[: number + 1]), False)
        with (parts / "history.jsonl").open("a") as file:
            file.write(json.dumps({"event": "step", "step": 99}) + '\n{"time": 1.0, "st')
    second = run(parts, shapes, resume=True, **changes)
    assert (second.steps, second.best_ap) == (6, expected.best_ap)
    assert_same_checkpoints(parts, whole)
    assert evaluations_of(parts) == evaluations_of(whole)
    assert [step for step, _ in evaluations_of(parts)] == [3, 6]
    assert not [r for r in read_history(parts / "history.jsonl") if r["step"] == 99]


def test_it_learns(tmp_path):
    """On a few shapes the loss falls and shapes are found."""
    shapes = shapes_dataset(tmp_path / "set", pictures=8, seed=3)
    losses = []
    listener = TrainListener(progress=lambda now: losses.append(now.loss))
    outcome = run(
        tmp_path / "run", shapes, listener=listener, weight=6, learning_rate=2e-3,
        augmentation=Augmentation(crop=False), evaluate_every=2,
    )  # fmt: skip
    assert losses[-1] < losses[0] * 2 / 3
    assert outcome.best_ap > 0.05

    taught = read_checkpoint(outcome.best)
    network = SSD(taught.spec)
    load_weights(network, taught.weights, source="")
    spoiled = run(
        tmp_path / "spoiled", shapes, network=network, measure_start=True, learning_rate=0.03,
        ema_decay=0, warmup_steps=0,
    )  # fmt: skip
    assert [step for step, _ in evaluations_of(tmp_path / "spoiled")] == [0, 2, 4]
    assert spoiled.best_ap == pytest.approx(outcome.best_ap, abs=1e-4)
    assert read_checkpoint(spoiled.best).state["step"] == 0
    for name, value in read_checkpoint(spoiled.best).weights.items():
        np.testing.assert_array_equal(value, taught.weights[name], err_msg=name)


def test_broken_pictures_are_reported_once_and_skipped(tmp_path):
    """Also where a run is resumed after its first epoch."""
    shapes = shapes_dataset(tmp_path / "set", pictures=6)
    (shapes / "images" / "0002.png").write_text("no picture")
    image = Image.open(shapes / "images" / "0003.png")
    image.resize((10, 10)).save(shapes / "images" / "0003.png")
    problems: list[Problem] = []
    for resume, stopping in ((False, vars(stop_after(3))), (True, {})):
        listener = TrainListener(problem=problems.append, **stopping)
        run(tmp_path / "run", shapes, batch_size=2, resume=resume, listener=listener)
    reported = {str(p) for p in problems}
    assert any("0002.png" in p for p in reported)
    assert any("0003.png" in p and "10 x 10" in p for p in reported)
    assert len(problems) == len(reported)
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_no_readable_picture_is_an_error_but_in_the_rest_of_an_epoch(tmp_path):
    """A resumed run may have little left of it."""
    shapes = shapes_dataset(tmp_path / "set", pictures=4)
    fine = open_dataset(shapes_dataset(tmp_path / "other", pictures=2))
    given = {"epochs": 1, "batch_size": 2, "validation": fine}
    assert run(tmp_path / "run", shapes, **given, listener=stop_after(1)).steps == 1
    for file in (shapes / "images").iterdir():
        file.write_text("no picture")
    outcome = run(tmp_path / "run", shapes, **given, resume=True)
    assert (outcome.steps, outcome.finished) == (2, True)
    with pytest.raises(TrainingError, match=r"no picture .*\.png"):
        run(tmp_path / "new", shapes, **given)


def test_what_cannot_be_measured_on_is_refused_before_training(tmp_path, shapes):
    dataset = open_dataset(shapes)
    emptied = tuple(dataclasses.replace(s, crowd=np.ones_like(s.crowd)) for s in dataset.samples)
    for changes in (
        {"samples": emptied}, {"labels": LabelSet(("a", "b", "c"), (3, 7, 11))}
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=re.escape(dataset.name)):
            run(tmp_path, shapes, validation=dataclasses.replace(dataset, **changes))
    assert list(tmp_path.iterdir()) == []


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)  # fmt: skip


def fails_with(error):
    def fail(*_args, **_keywords):
        raise error

    return fail


def fails_to_measure(self, images, forward=SSD.forward):
    return forward(self, images) if self.training else fails_with(MemoryError())()


@pytest.mark.parametrize(
    ("owner", "name", "broken", "advice"),
    [
        *(
            (SSD, "forward", fails_with(error), "accumulate=2.*--batch 2")
            for error in OUT_OF_MEMORY
        ),
        (torch.optim.AdamW, "step", fails_with(MemoryError()), "accumulate=2.*--batch 2"),
        (SSD, "forward", fails_to_measure, "accumulate=2.*--batch 2"),
        (loader_module, "_collate", fails_with(MemoryError()), "batch of 4 pictures.*--batch 2"),
    ],
)
def test_out_of_memory_says_what_to_try_wherever_it_happens(
    tmp_path, shapes, monkeypatch, owner, name, broken, advice
):
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(TrainingError, match=rf"4 pictures.*{advice}|{advice}"):
        run(tmp_path, shapes)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"batch_size": 2}, "; use a smaller network"),
        ({"batch_size": 5, "accumulate": 2}, "; use a smaller network"),
        ({"batch_size": 2, "head_statistics": "frozen"}, "accumulate=2, .* or try --batch 1"),
    ],
)
def test_out_of_memory_advises_nothing_that_batch_norm_forbids(
    tmp_path, shapes, monkeypatch, changes, advice
):
    monkeypatch.setattr(SSD, "forward", fails_with(MemoryError()))
    with pytest.raises(TrainingError, match=advice):
        run(tmp_path, shapes, **changes)
    monkeypatch.setattr(SSD, "forward", fails_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, shapes)


def test_accumulated_parts_make_the_step_of_the_whole_batch(shapes):
    """Without batch norm; SGD, so that the step is the gradient."""
    spec = tiny_spec().replace(head_norm=False)
    batch = next(loader_of(shapes, batch_size=5).batches(0))
    results = []
    for parts in (1, 2, 5):
        options = fast(
            optimizer="sgd", batch_size=5, accumulate=parts, backbone_statistics="frozen"
        )
        torch.manual_seed(3)
        network = SSD(spec)
        optimizer = make_optimizer(network, options)
        set_training(network, options, frozen=False)
        step = train_step(network, optimizer, batch, options=options, device=torch.device("cpu"))
        assert step is not None
        assert step.pictures == 5
        results.append((step.loss, network.state_dict()))
    for loss, weights in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for key, value in weights.items():
            torch.testing.assert_close(value, results[0][1][key], rtol=1e-4, atol=1e-6)


def test_decay_acts_on_everything_as_published_or_on_convolutions():
    network = SSD(tiny_spec())
    biases = sum(p.dim() < 2 for p in network.parameters())
    for decayed, expected in (("all", 0), ("weights", biases)):
        groups = make_optimizer(network, fast(optimizer="sgd", decayed=decayed)).param_groups
        others = [p for group in groups if not group["weight_decay"] for p in group["params"]]
        assert len(others) == expected


def test_a_pretrained_backbone_may_learn_slower(shapes):
    """Without momentum and decay a step is the gradient times the rate."""
    spec = tiny_spec()
    batch = next(loader_of(shapes).batches(0))
    moved = []
    for share in (1.0, 0.25):
        options = fast(
            optimizer="sgd", momentum=0.0, weight_decay=0.0, backbone_rate=share,
            learning_rate=1e-3, gradient_clip=None, frozen_stages=0,
        )  # fmt: skip
        torch.manual_seed(3)
        network = SSD(spec)
        before = {k: v.clone() for k, v in network.named_parameters()}
        optimizer = make_optimizer(network, options)
        for group in optimizer.param_groups:
            group["lr"] = options.peak_rate * group["scale"]
        train_step(network, optimizer, batch, options=options, device=torch.device("cpu"))
        moved.append({k: v.detach() - before[k] for k, v in network.named_parameters()})
    for key in ("backbone.conv1.weight", "backbone.bn1.bias"):
        torch.testing.assert_close(moved[1][key], moved[0][key] / 4, rtol=1e-2, atol=1e-8)
    for key in ("heads.loc.0.weight", "extras.0.norm1.bias"):
        torch.testing.assert_close(moved[1][key], moved[0][key])


STEP = {"batch_size": 12}
"""An epoch is one step."""


def test_training_stops_at_the_target_and_stays_stopped(tmp_path, shapes):
    for resume in (False, True):
        outcome = run(tmp_path, shapes, resume=resume, target_map=0.0, **STEP)
        assert (outcome.steps, outcome.finished) == (1, True)


def test_evaluations_pick_by_the_policy_that_is_set(tmp_path, shapes, monkeypatch):
    """And the last checkpoint is written once."""
    used, written = set(), []
    save = Checkpoint.save

    def noted(*raw, policy, **keywords):
        used.add(policy)
        return postprocess(*raw, policy=policy, **keywords)

    def counted(self, path):
        written.append(path.name)
        save(self, path)

    monkeypatch.setattr(validate, "postprocess", noted)
    monkeypatch.setattr(Checkpoint, "save", counted)
    for name, policy in (("mlperf", MLPERF), ("zoo", ZOO)):
        run(tmp_path, shapes, epochs=1, policy=name, **STEP)
        assert used == {policy}
        assert f'"policy": "{name}"' in (tmp_path / "history.jsonl").read_text()
        assert written == ["last.safetensors", "best.safetensors"]
        used.clear()
        written.clear()


def test_resume_on_other_pictures_is_refused(tmp_path, shapes):
    """As many, but one box is a pixel smaller; or another batch."""
    dataset = open_dataset(shapes)
    run(tmp_path, shapes, listener=stop_after(1))
    with pytest.raises(TrainingError, match=r"3 batches an epoch .*, now it is 2"):
        run(tmp_path, shapes, resume=True, batch_size=6)
    changed = make_training_sets([(one_pixel_less(dataset), 1.0)], TINY_LABELS)
    with pytest.raises(TrainingError, match=r"--data .*12 pictures, \w{8}"):
        run(tmp_path, shapes, resume=True, sources=changed)


def one_pixel_less(dataset):
    first, *rest = dataset.samples
    smaller = dataclasses.replace(first, boxes=first.boxes - np.array([0, 0, 1, 0], np.float32))
    return dataclasses.replace(dataset, samples=(smaller, *rest))


def test_pictures_are_the_same_under_another_name_and_not_with_other_weights(shapes):
    dataset = open_dataset(shapes)

    def of(*sets, val=dataset):
        return describe_pictures(make_training_sets(sets, TINY_LABELS), val)

    was, whole = of((dataset, 1.0)), (dataset, 1.0)
    moved = dataclasses.replace(dataset, name="elsewhere")
    assert find_other_pictures(was, of((moved, 1.0))) is None
    assert "weight 0.5" in (find_other_pictures(was, of((dataset, 0.5), (dataset, 0.5))) or "")
    assert "now it is nothing" in (find_other_pictures(of(whole, whole), was) or "")
    assert "--val" in (find_other_pictures(was, of(whole, val=one_pixel_less(dataset))) or "")


def evaluated_at(folder):
    return [step for step, _ in evaluations_of(folder)]


def test_evaluations_several_epochs_apart_and_at_the_end(tmp_path, shapes):
    """Stopped where one is due, the run makes up for it; at another epoch's end none is."""
    options = {"epochs": 3, "batch_size": 6, "evaluate_every": 2}
    asked = []
    stopping = TrainListener(
        evaluating=lambda done, _total: asked.append(done), stop=lambda: len(asked) >= 5
    )
    assert run(tmp_path, shapes, listener=stopping, **options).steps == 4
    first = run(tmp_path, shapes, resume=True, listener=stop_after(1), **options)
    assert (first.steps, first.finished) == (5, False)
    assert run(tmp_path, shapes, resume=True, **options).finished
    assert evaluated_at(tmp_path) == [4, 6]


def test_an_evaluation_that_is_stopped_or_killed_is_made_up_for(tmp_path, shapes):
    """Also the last one, without which a run is not finished."""

    class KilledError(Exception):
        pass

    def asked_to_stop(resume, *, epoch, at, workers=0):
        asked = []
        listener = TrainListener(
            evaluating=lambda done, _total: asked.append(done), stop=lambda: len(asked) >= at
        )
        stopped = run(tmp_path, shapes, resume=resume, listener=listener, workers=workers)
        assert (stopped.steps, stopped.finished) == (3 * epoch, False)
        assert asked[-1] == 5

    asked_to_stop(False, epoch=1, at=5)
    with pytest.raises(KilledError):
        run(
            tmp_path,
            shapes,
            resume=True,
            listener=TrainListener(evaluating=fails_with(KilledError())),
        )
    # The metrics library runs in the process before worker processes start.
    asked_to_stop(True, epoch=2, at=12 + 5, workers=2)
    assert evaluated_at(tmp_path) == [3]
    assert run(tmp_path, shapes, resume=True).finished
    assert evaluated_at(tmp_path) == [3, 6]


def test_one_picture_needs_no_batch_norm_of_one(tmp_path):
    shapes = shapes_dataset(tmp_path / "set", pictures=1)
    assert run(tmp_path / "run", shapes, epochs=1, batch_size=2).finished
    for batch, accumulate, message in ((1, 1, "--batch 2"), (4, 4, "--batch 8.*accumulate")):
        with pytest.raises(OptionError, match=message):
            run(tmp_path / "run", shapes, batch_size=batch, accumulate=accumulate)


def test_frozen_parts_do_not_move(tmp_path, shapes):
    torch.manual_seed(1)
    before = {k: v.clone() for k, v in SSD(tiny_spec()).state_dict().items()}
    run(tmp_path, shapes, epochs=1, frozen_stages=2, backbone_statistics="frozen", **STEP)
    after = read_checkpoint(tmp_path / "last.safetensors", training=True).training
    moved = {k for k in before if f"model.{k}" in after
             and not np.array_equal(after[f"model.{k}"], before[k].numpy())}  # fmt: skip
    assert not [
        k for k in moved if k.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))
    ]
    assert not [k for k in moved if k.startswith("backbone.") and "running" in k]
    assert "backbone.layer2.0.conv1.weight" in moved
    assert "extras.0.norm1.running_mean" in moved


def test_frozen_share_ends():
    network = SSD(tiny_spec())
    options = fast(frozen_stages=1)
    set_training(network, options, frozen=True)
    assert not network.backbone.conv1.weight.requires_grad
    set_training(network, options, frozen=False)
    assert network.backbone.conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("length", "expected"), [({"epochs": 2}, 30), ({"epochs": None, "minutes": 0.8}, 18)]
)
def test_the_time_left_follows_the_last_steps(tmp_path, shapes, monkeypatch, length, expected):
    """By a clock on which a step takes ten seconds, and so does a picture that is measured; a
    checkpoint knows how long the run has trained."""
    now, left = [0.0], []
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(f"time.{clock}", lambda: now[0])
    listener = TrainListener(
        evaluating=lambda _done, _total: now.__setitem__(0, now[0] + 10),
        progress=lambda progress: left.append(progress.remaining),
        stepped=lambda _step, _share: now.__setitem__(0, now[0] + 10),
    )
    assert run(tmp_path, shapes, listener=listener, **length).steps == 6
    assert left == pytest.approx([expected, 0])
    assert read_checkpoint(tmp_path / "last.safetensors").state["elapsed"] == 60


def test_small_pictures_first(tmp_path, shapes):
    sizes = []
    listener = TrainListener(progress=lambda now: sizes.append(now.image_size))
    options = {"epochs": 4, "small_size": 64, "small_share": 0.5, "evaluate_every": 4, **STEP}
    run(tmp_path, shapes, spec=tiny_spec().at_size(96), listener=listener, **options)
    assert sizes == [64, 64, 96, 96]


def test_evaluation_does_not_depend_on_the_batch(shapes):
    torch.manual_seed(0)
    network = SSD(tiny_spec())
    dataset = open_dataset(shapes)
    device = torch.device("cpu")
    one, five = (
        evaluate_network(network, TINY_LABELS, dataset, device=device, batch_size=size)
        for size in (1, 5)
    )
    assert one is not None
    assert five is not None
    assert one.summary == pytest.approx(five.summary, abs=1e-6, nan_ok=True)
