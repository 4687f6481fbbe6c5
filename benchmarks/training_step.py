"""A training step as it is and under torch.compile, in turns, and how long compiling takes.

python benchmarks/training_step.py coco-train.zip --size 160 --freeze 4
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from tables import keep

from ssd34.core.spec import SPECS, named_spec
from ssd34.datasets.open import open_dataset
from ssd34.machine import thread_budget
from ssd34.network.ssd import SSD
from ssd34.runtime.timing import interleaved, speed_up, summary
from ssd34.train.examples.example import make_training_sets
from ssd34.train.examples.loader import Loader
from ssd34.train.options import TrainOptions
from ssd34.train.step import computes_bf16, make_optimizer, set_training, train_step

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="a data set")
    parser.add_argument("--spec", choices=list(SPECS), default="ssd300-resnet18")
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--freeze", type=int, default=1, help="stages of the backbone")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=thread_budget())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    dataset = open_dataset(given.data)
    spec = named_spec(given.spec).replace(num_classes=len(dataset.labels), head_norm=True)
    options = TrainOptions(
        epochs=1,
        batch_size=given.batch,
        frozen_stages=given.freeze,
        workers=0,
        cache_mb=0,
        seed=1,
        precision="bf16" if computes_bf16(CPU) else "fp32",
    )
    loader = Loader(
        make_training_sets([(dataset, 1.0)], dataset.labels), spec=spec, options=options,
        size_now=lambda _: given.size,
    )  # fmt: skip
    batch = next(loader.batches(0))

    def stepping(*, compiled: bool) -> Callable[[], Any]:
        network = SSD(spec.at_size(given.size))
        network.to(CPU, memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_training(network, options, frozen=True)
        optimizer = make_optimizer(network, dataclasses.replace(options, learning_rate=1e-5))
        module = cast(SSD, torch.compile(network)) if compiled else network
        return lambda: train_step(module, optimizer, batch, options=options, device=CPU)

    eager, compiled = stepping(compiled=False), stepping(compiled=True)
    started = time.perf_counter()
    compiled()
    first = time.perf_counter() - started
    times = interleaved(
        {"eager": eager, "compiled": compiled}, rounds=given.rounds, warm_up=2,
        progress=lambda done: print(f"round {done}", flush=True),
    )  # fmt: skip
    faster = speed_up(times["eager"], times["compiled"])
    one = {
        "network": given.spec, "pixels": given.size, "batch": given.batch,
        "frozen stages": given.freeze, "threads": given.threads, "precision": options.precision,
        "step, ms a picture": round(summary(times["eager"]).median / given.batch, 1),
        "compiled": round(summary(times["compiled"]).median / given.batch, 1),
        "times as fast": str(faster), "first compiled step, s": round(first, 1),
    }  # fmt: skip
    print(json.dumps(one, indent=1))
    if given.json:
        keep(given.json, [one], data=[given.data])


if __name__ == "__main__":
    main()
