"""A run that is killed with SIGKILL and resumed ends with the same weights, bit for bit."""

import multiprocessing
import random
import signal
import time

import pytest

from tests.support import killed_run
from tests.support.training import assert_same_checkpoints, evaluations_of


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
)


def test_killed_at_the_worst_moments_and_at_random_ones(processes, shapes, whole, tmp_path):
    """One run, killed and resumed; once after up to half of the time that the whole run takes."""
    expected, seconds = whole
    for moment, count in WORST:
        process = start(processes, tmp_path, shapes, moment, count)
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), moment
        if moment.startswith("checkpoint"):
            assert any(path.name.startswith(".") for path in tmp_path.iterdir())
    process = start(processes, tmp_path, shapes)
    process.join(random.uniform(0, seconds / 2))
    process.kill()
    process.join(120)
    process = start(processes, tmp_path, shapes)
    process.join(120)
    assert process.exitcode == 0
    for name in ("last.safetensors", "best.safetensors"):
        assert_same_checkpoints(tmp_path, expected, name)
    assert evaluations_of(tmp_path) == evaluations_of(expected)
    left = [path.name for path in tmp_path.iterdir()]
    assert sorted(left) == ["best.safetensors", "history.jsonl", "last.safetensors"]
