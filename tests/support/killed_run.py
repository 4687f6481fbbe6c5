"""A small run in a process of its own, which may kill itself; see test_killed.py."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

from ssd34.files.checkpoint import LAST
from ssd34.train.run import TrainingRun
from tests.support import training


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment, count):
    """Kill this process at the moment's count-th time."""
    left = [count]

    def now():
        left[0] -= 1
        return left[0] == 0

    if moment == "checkpoint half written":
        save_file = safetensors.numpy.save_file

        def save_half(arrays, path, **keywords):
            if now():
                # The system kills this process where the library's own writing passes the limit.
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            save_file(arrays, path, **keywords)

        setattr(safetensors.numpy, "save_file", save_half)  # noqa: B010
    elif moment == "checkpoint not yet in its place":
        replace = Path.replace

        def replace_not(self: Path, target: Any) -> Path:
            if Path(target).name == LAST and now():
                die()
            return replace(self, target)

        setattr(Path, "replace", replace_not)  # noqa: B010
    elif moment in ("evaluation not yet in the history", "history line half written"):
        log = TrainingRun.log

        def log_half(self, record):
            if record["event"] == "evaluation" and now():
                if moment == "history line half written":
                    with (self.output / "history.jsonl").open("a") as file:
                        file.write('{"time": 1.0, "step": 3, "event": "evalu')
                die()
            log(self, record)

        setattr(TrainingRun, "log", log_half)  # noqa: B010


def run(folder, shapes, moment=None, count=0):
    """Train, or go on where the folder has a checkpoint."""
    torch.set_num_threads(1)
    die_at(moment, count)
    # A checkpoint after every step.
    changes = {"precision": "bf16", "checkpoint_minutes": 1e-6}
    training.run(folder, shapes, resume=(folder / LAST).exists(), **changes)
