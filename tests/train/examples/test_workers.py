"""Worker processes that are killed, and that end with the run."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from types import SimpleNamespace

import pytest

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.errors import TrainingError
from ssd34.train.distributed import Ranks
from ssd34.train.examples import loader as loader_module
from ssd34.train.examples.example import make_training_sets
from ssd34.train.examples.loader import report_deaths
from tests.conftest import TINY_LABELS, tiny_spec
from tests.support import training

pytestmark = pytest.mark.usefixtures("two_processors")

NO_NAMESPACE = subprocess.call(["unshare", "-m", "true"], stderr=subprocess.DEVNULL) if (
    shutil.which("unshare")
) else 1  # fmt: skip


class Killing(Dataset):
    """As the kernel kills a process when the memory is full."""

    def read_reduced(self, *_args, **_options):
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Dataset):
    def read_reduced(self, *_args, **_options):
        return 1 / 0


class Sleeping(Dataset):
    def read_reduced(self, *_args, **_options):
        time.sleep(60)


def loader_of(shapes, kind=Dataset):
    opened = open_dataset(shapes)
    dataset = kind(**{f.name: getattr(opened, f.name) for f in dataclasses.fields(opened)})
    sources = make_training_sets([(dataset, 1.0)], TINY_LABELS)
    return training.loader_of(shapes, sources=sources, workers=2)


def test_a_killed_worker_says_what_to_try(shapes):
    with pytest.raises(TrainingError, match=r"killed.*memory.*fewer --workers or --set cache_mb=0"):
        next(loader_of(shapes, Killing).batches(0))


def test_an_error_in_a_worker_is_not_hidden(shapes):
    with pytest.raises(ZeroDivisionError):
        next(loader_of(shapes, Failing).batches(0))
    assert multiprocessing.active_children() == []


def test_closed_batches_leave_no_process_behind(shapes):
    loader = loader_of(shapes)
    batches = loader.batches(0)
    next(batches)
    assert len(multiprocessing.active_children()) == loader.workers > 0
    batches.close()
    assert multiprocessing.active_children() == []


def test_a_worker_killed_between_two_batches_says_what_to_try(shapes):
    batches = loader_of(shapes).batches(0)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"killed.*memory"), report_deaths():
        for _ in range(12):  # what was ready is still handed over
            next(batches)
    assert multiprocessing.active_children() == []


def test_who_stops_does_not_wait_for_a_batch(shapes):
    assert next(loader_of(shapes, Sleeping).batches(0, lambda: True), None) is None
    assert multiprocessing.active_children() == []


def test_one_of_several_processes_waits_a_while(shapes, monkeypatch):
    """It cannot end alone: the others would wait for it."""
    monkeypatch.setattr(loader_module, "FAREWELL", 0)
    loader = loader_of(shapes, Sleeping)
    loader.ranks = Ranks(rank=0, count=2)
    with pytest.raises(KeyboardInterrupt):
        next(loader.batches(0, lambda: True))


def test_workers_that_live_but_never_answer_are_given_up(shapes, monkeypatch):
    monkeypatch.setattr(loader_module, "PATIENCE", 1)
    with pytest.raises(TrainingError, match="--workers 0"):
        next(loader_of(shapes, Sleeping).batches(0))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENOSPC])
def test_workers_that_cannot_be_started_say_what_to_try(shapes, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    loader = loader_of(shapes)
    monkeypatch.setattr(forkserver, "connect_to_new_process", refuse)
    with pytest.raises(TrainingError, match="--workers 0"):
        next(loader.batches(0))


def test_no_more_is_prepared_than_the_shared_memory_holds(shapes, monkeypatch):
    loader = loader_of(shapes)
    boxes = len(default_boxes_cxcywh(tiny_spec()))
    side = tiny_spec().image_size
    batch = 4 * (side * side * 3 + boxes * (16 + 8) + len(TINY_LABELS) + 1)

    def within(batches):
        usage = SimpleNamespace(free=int(batches * batch))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        return loader._within_shared_memory()

    # The batch in use counts, too.
    assert [within(n) for n in (100, 7, 6.9, 5, 3, 2)] == [
        (2, 3), (2, 3), (2, 2), (2, 2), (2, 1), (1, 1)
    ]  # fmt: skip
    with pytest.raises(TrainingError, match=r"/dev/shm.*--shm-size.*--workers 0"):
        within(1.9)


@pytest.mark.skipif(NO_NAMESPACE != 0, reason="no mount namespace can be had")
def test_a_small_shared_memory_is_told_of_within_seconds(shapes):
    mount = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-m",
         "tests.support.small_shared_memory", str(shapes)],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    enough, early, late = done.stdout.splitlines()
    assert enough.split() == ["4"] * 12
    for told, fact in ((early, "expected"), (late, "is full")):
        assert told.startswith("False /dev/shm") and fact in told and "--workers 0" in told
    assert "Traceback" not in done.stderr
