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


def start(processes, *arguments):
    process = processes.Process(target=killed_run.run, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def whole(processes, shapes, tmp_path_factory):
    """An uninterrupted run's folder, and how long it took in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = start(processes, folder, shapes)
    process.join(120)
    assert process.exitcode == 0
    return folder, time.monotonic() - started


WORST = (
    ("checkpoint half written", 1),
    ("checkpoint not yet in its place", 2),
    ("history line half written", 1),
    ("evaluation not yet in the history", 1),
    ("checkpoint half written", 3),
)


def test_killed_at_the_worst_moments_and_at_random_ones(processes, shapes, whole, tmp_path):
    """One run, killed and resumed; twice after up to half of the time that the whole run takes."""
    expected, seconds = whole
    for moment, count in WORST:
        process = start(processes, tmp_path, shapes, moment, count)
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), moment
        if moment.startswith("checkpoint"):
            assert any(path.name.startswith(".") for path in tmp_path.iterdir())
    generator = random.Random(34)
    for _ in range(2):
        process = start(processes, tmp_path, shapes)
        process.join(generator.uniform(0, seconds / 2))
        process.kill()
        process.join(120)
    process = start(processes, tmp_path, shapes)
    process.join(120)
    assert process.exitcode == 0
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = (read_checkpoint(f / name, training=True) for f in (tmp_path, expected))
        for one, other in ((ours.weights, theirs.weights), (ours.training, theirs.training)):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)
    assert evaluations(tmp_path) == evaluations(expected)
    left = [path.name for path in tmp_path.iterdir()]
    assert sorted(left) == ["best.safetensors", "history.jsonl", "last.safetensors"]


def evaluations(folder):
    records = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [(r["step"], r["summary"]) for r in records if r["event"] == "evaluation"]
