"""A training run's batches in a process of its own, in a mount namespace where /dev/shm is small;
see test_workers.py."""

import sys

from ssd34.errors import TrainingError
from ssd34.train.examples import loader as loader_module
from tests.support.training import loader_of

if __name__ == "__main__":
    shapes, batch, look = sys.argv[1:]
    if look == "late":  # another process fills it after the look
        loader_module._free_shared_memory = lambda: None
    loader = loader_of(shapes, batch_size=int(batch), workers=2)
    batches = loader.batches(0)
    try:
        for _ in range(12):
            print(next(batches).images.shape[0])
        batches.close()
    except TrainingError as error:
        print("\n" in str(error), error)
