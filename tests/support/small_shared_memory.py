"""Training batches in a process of its own, in a mount namespace whose /dev/shm may be made small;
see test_workers.py."""

import subprocess
import sys
from contextlib import closing

from ssd34.errors import TrainingError
from ssd34.train.examples import loader as loader_module
from tests.support.training import loader_of


def make(shapes, size):
    """Print of each batch how many pictures it has, or the error."""
    remount = ("mount", "-o", f"remount,size={size}", "/dev/shm")
    subprocess.run(remount, check=True)
    try:
        with closing(loader_of(shapes, workers=2).batches(0)) as batches:
            print(*(len(next(batches).images) for _ in range(12)))
    except TrainingError as error:
        print("\n" in str(error), error)


if __name__ == "__main__":
    make(sys.argv[1], "16m")
    make(sys.argv[1], "64k")
    # Another process fills it after the look.
    loader_module._free_shared_memory = lambda: None
    make(sys.argv[1], "64k")
