"""Small trainings, by function and by command."""

import dataclasses

import numpy as np
import torch

from ssd34.datasets.open import open_dataset
from ssd34.files.checkpoint import read_checkpoint
from ssd34.network.ssd import SSD
from ssd34.train.distributed import ALONE
from ssd34.train.examples.augment import Augmentation
from ssd34.train.examples.example import make_training_sets
from ssd34.train.examples.loader import Loader
from ssd34.train.loop import train
from ssd34.train.options import TrainOptions
from ssd34.train.progress import SILENT, TrainListener
from ssd34.train.run import NOTE_MEASURE_START, read_history
from tests.conftest import TINY_LABELS, tiny_spec

FAST = TrainOptions(
    epochs=2, batch_size=4, warmup_steps=2, workers=0, learning_rate=1e-3,
    precision="fp32", frozen_stages=0, backbone_statistics="batch", ema_decay=0.9,
    augmentation=Augmentation(expand=0.3),
)  # fmt: skip
"""Six steps on the twelve pictures of ``shapes``, an evaluation after the third and the last."""

QUICK = ("--batch", "4", "--workers", "0", "--threads", "1", "--set", "warmup_steps=1")
"""Options of ``ssd34 train``; the network is for a test to choose."""


def fast(**changes):
    return dataclasses.replace(FAST, **changes)


def run(
    folder, shapes, *, spec=None, weight=1.0, validation=None, sources=None, resume=False,
    measure_start=False, network=None, listener=SILENT, ranks=ALONE, **changes,
):  # fmt: skip
    """Train the tiny network on these pictures, with `FAST` but for the changes."""
    folder.mkdir(exist_ok=True)
    dataset = open_dataset(shapes)
    torch.manual_seed(1)
    sources = sources or make_training_sets([(dataset, weight)], TINY_LABELS)
    return train(
        network or SSD(spec or tiny_spec()), TINY_LABELS, sources=sources,
        validation=validation or dataset, options=fast(**changes), output=folder, resume=resume,
        notes={NOTE_MEASURE_START: measure_start}, listener=listener, ranks=ranks,
    )  # fmt: skip


def assert_same_checkpoints(folder, other, name="last.safetensors"):
    """Bit for bit, with all that training needs."""
    ours, theirs = (read_checkpoint(f / name, training=True) for f in (folder, other))
    for one, two in ((ours.weights, theirs.weights), (ours.training, theirs.training)):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


def evaluations_of(folder):
    """Step and summary of each."""
    records = read_history(folder / "history.jsonl")
    return [(r["step"], r["summary"]) for r in records if r["event"] == "evaluation"]


def stop_after(steps):
    seen: list[int] = []
    return TrainListener(
        stepped=lambda step, _share: seen.append(step), stop=lambda: len(seen) >= steps
    )


def loader_of(
    shapes, *, weight=1.0, sources=None, spec=None, size_now=lambda _step: 64, ranks=ALONE,
    **changes,
):  # fmt: skip
    """Batches of four for the tiny network, made in this process."""
    sources = sources or make_training_sets([(open_dataset(shapes), weight)], TINY_LABELS)
    given = {"batch_size": 4, "seed": 7, "workers": 0, "cache_mb": 0, **changes}
    options = TrainOptions(**{"augmentation": Augmentation(), **given})
    return Loader(
        sources, spec=spec or tiny_spec(), options=options, size_now=size_now, ranks=ranks
    )
