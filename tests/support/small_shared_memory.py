"""A training run's batches in a process of its own, in a mount namespace where /dev/shm is small;
see test_workers.py."""

import sys

from ssd34.datasets.open import open_dataset
from ssd34.errors import TrainingError
from ssd34.train.examples import loader as loader_module
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import training_sets
from ssd34.train.examples.loader import Loader
from tests.conftest import TINY_LABELS, tiny_spec

if __name__ == "__main__":
    shapes, batch, look = sys.argv[1:]
    if look == "late":  # another process fills it after the look
        loader_module._free_shared_memory = lambda: None
    loader = Loader(
        training_sets([(open_dataset(shapes), 1.0)], TINY_LABELS), spec=tiny_spec(),
        options=Augmentation(), batch_size=int(batch), seed=7, workers=2,
        size_now=lambda _step: 64,
    )  # fmt: skip
    batches = loader.batches(0)
    try:
        for _ in range(12):
            print(next(batches).images.shape[0])
        batches.close()
    except TrainingError as error:
        print("\n" in str(error), error)
