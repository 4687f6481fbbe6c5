"""A small run in a process of its own, which may kill itself; see test_killed.py."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

from ssd34.datasets.open import open_dataset
from ssd34.network.ssd import SSD
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import training_sets
from ssd34.train.loop import train
from ssd34.train.run import LAST, Run
from ssd34.train.settings.options import TrainOptions
from tests.conftest import TINY_LABELS, tiny_spec

OPTIONS = TrainOptions(
    epochs=2, batch_size=4, warmup_steps=2, workers=0, learning_rate=1e-3, precision="bf16",
    frozen_stages=0, backbone_statistics="batch", ema_decay=0.9,
    augmentation=Augmentation(expand=0.3), checkpoint_minutes=1e-6,
)  # fmt: skip
"""A checkpoint after every step."""


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
        log = Run.log

        def log_half(self, record):
            if record["event"] == "evaluation" and now():
                if moment == "history line half written":
                    with (self.output / "history.jsonl").open("a") as file:
                        file.write('{"time": 1.0, "step": 3, "event": "evalu')
                die()
            log(self, record)

        setattr(Run, "log", log_half)  # noqa: B010


def run(folder, shapes, moment=None, count=0):
    """Train, or go on where the folder has a checkpoint."""
    torch.set_num_threads(1)
    die_at(moment, count)
    dataset = open_dataset(shapes)
    torch.manual_seed(1)
    train(
        SSD(tiny_spec()),
        TINY_LABELS,
        sources=training_sets([(dataset, 1.0)], TINY_LABELS),
        validation=dataset,
        options=OPTIONS,
        output=folder,
        resume=(folder / LAST).exists(),
    )
