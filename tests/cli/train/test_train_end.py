import dataclasses

import pytest

from ssd34.train.progress import TrainingOutcome
from ssd34.workflows.train import describe_ending


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
