import dataclasses
from pathlib import Path

import pytest

from ssd34.train.progress import Outcome
from ssd34.workflows.train import describe_ending


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    state = {"step": 70, "batches_per_epoch": 10}
    dataclasses.replace(tiny_checkpoint, state=state).save(tmp_path / "best.safetensors")
    return tmp_path


def ended(folder, *, target_map=None, best_ap=0.2314, finished=True):
    outcome = Outcome(
        last=folder / "last.safetensors", best=folder / "best.safetensors", best_ap=best_ap,
        steps=80, finished=finished,
    )  # fmt: skip
    return describe_ending(outcome, target_map=target_map)


def test_the_end_says_whether_the_target_was_reached(folder):
    text = "finished after 80 steps, best AP 0.2314 at epoch 7"
    assert ended(folder) == text
    assert ended(folder, target_map=0.23) == f"{text}; target AP 0.23 reached"
    assert ended(folder, target_map=0.25) == f"{text}; target AP 0.25 not reached"


def test_what_was_best_under_another_policy_is_not_named(folder):
    assert ended(folder, best_ap=-1) == "finished after 80 steps"


def test_a_stopped_run_may_go_on():
    assert ended(Path("nowhere"), best_ap=-1, finished=False, target_map=0.2) == (
        "stopped after 80 steps; go on with --resume"
    )
