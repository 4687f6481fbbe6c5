"""Worker processes that are killed, and that end with the run."""

import dataclasses
import multiprocessing
import os
import signal

import pytest

from ssd34.data.dataset import Dataset
from ssd34.data.formats import open_dataset
from ssd34.errors import TrainingError
from ssd34.train.augment import Augmentation
from ssd34.train.loader import Loader
from ssd34.train.training_set import training_sets
from tests.conftest import TINY_LABELS, tiny_spec

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class Killing(Dataset):
    """As the kernel kills a process when the memory is full."""

    def read_reduced(self, *_args, **_options):
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Dataset):
    def read_reduced(self, *_args, **_options):
        return 1 / 0


def loader_of(shapes, kind=Dataset):
    opened = open_dataset(shapes)
    dataset = kind(**{f.name: getattr(opened, f.name) for f in dataclasses.fields(opened)})
    return Loader(
        training_sets([(dataset, 1.0)], TINY_LABELS), spec=tiny_spec(),
        options=Augmentation(), batch_size=4, seed=7, workers=2, size_now=lambda _step: 64,
    )  # fmt: skip


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
