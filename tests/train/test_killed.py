"""A run that is killed with SIGKILL and resumed ends with the same weights, bit for bit."""

import json
import multiprocessing
import random
import signal
import time

import numpy as np
import pytest

from ssd34.files.checkpoint import read_checkpoint
from tests.support import killed_run


@pytest.fixture(scope="module")
def processes():
    """Processes that have torch loaded when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killed_run.__name__])
    return context


@pytest.fixture(scope="module")
def whole(processes, shapes, tmp_path_factory):
    """An uninterrupted run's folder, and how long it took in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = processes.Process(target=killed_run.run, args=(folder, shapes))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return folder, time.monotonic() - started


def assert_same_result(folder, expected):
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = (read_checkpoint(f / name, training=True) for f in (folder, expected))
        for one, other in ((ours.weights, theirs.weights), (ours.training, theirs.training)):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)
    assert evaluations(folder) == evaluations(expected)
    left = [path.name for path in folder.iterdir()]
    assert sorted(left) == ["best.safetensors", "history.jsonl", "last.safetensors"]


def evaluations(folder):
    records = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [(r["step"], r["summary"]) for r in records if r["event"] == "evaluation"]


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("checkpoint half written", 1),
        ("checkpoint half written", 5),
        ("checkpoint not yet in its place", 4),
        ("evaluation not yet in the history", 1),
        ("history line half written", 2),
    ],
)
def test_killed_at_the_worst_moments(processes, shapes, whole, tmp_path, moment, count):
    process = processes.Process(target=killed_run.run, args=(tmp_path, shapes, moment, count))
    process.start()
    process.join(120)
    assert process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ)
    left = {path.name for path in tmp_path.iterdir()}
    assert any(name.startswith(".") for name in left) == moment.startswith("checkpoint")
    again = processes.Process(target=killed_run.run, args=(tmp_path, shapes))
    again.start()
    again.join(120)
    assert again.exitcode == 0
    assert_same_result(tmp_path, whole[0])


def test_killed_at_random_moments_again_and_again(processes, shapes, whole, tmp_path):
    """Up to four kills, each after up to half of the time that the whole run takes."""
    generator = random.Random(34)
    expected, seconds = whole
    killed = 0
    for _ in range(4):
        process = processes.Process(target=killed_run.run, args=(tmp_path, shapes))
        process.start()
        process.join(generator.uniform(0, seconds / 2))
        process.kill()
        process.join(120)
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 1
    process = processes.Process(target=killed_run.run, args=(tmp_path, shapes))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert_same_result(tmp_path, expected)
