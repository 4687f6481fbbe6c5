"""The network with its int8 file's rounding, from a trained detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.core.labels import LabelSet
from ssd34.deploy.search.pictures import from_dataset
from ssd34.errors import CheckpointError, OptionError, require
from ssd34.files.checkpoint import Checkpoint
from ssd34.network.rounded import FakeQuantizedSSD, Steps
from ssd34.network.ssd import SSD, copy_arrays
from ssd34.network.start import Start
from ssd34.train.examples.example import TrainingSet
from ssd34.train.progress import TrainListener

CALIBRATION_PICTURES = 200
RANGES = "mse"
"""The way of finding ranges whose steps the weights then adapt to."""

NEEDED = {"backbone_statistics": "frozen", "head_statistics": "frozen", "precision": "fp32"}


def apply_qat(given: Mapping[str, Any], start: Start) -> dict[str, Any]:
    """The given settings with those that rounding needs: frozen batch norm, float32 arithmetic.
    OptionError: one of them was given otherwise, or there is no detector to start from."""
    if start.kind != "detector":
        raise OptionError(
            "--qat adapts a trained detector to its rounding; give one with --init, such as the "
            "best.safetensors of a run"
        )
    for key, value in NEEDED.items():
        if given.get(key, "auto") not in ("auto", value):
            raise OptionError(f"--qat needs {key}={value}, got {given[key]}; leave it out")
    return {**given, **NEEDED}


def calibrate_steps(
    network: SSD, labels: LabelSet, sources: Sequence[TrainingSet], listener: TrainListener
) -> dict[str, Any]:
    """The steps of a network's values, which its checkpoints note: scale and zero point by name.

    They come from at most 200 training pictures and stay as they are; the weights adapt.
    """
    require("onnx", extra="export", why="quantization-aware training")
    from ssd34.deploy.graph.layers import make_network
    from ssd34.deploy.int8.calibrate import calibrate
    from ssd34.deploy.int8.plan import choose_steps

    weights = copy_arrays(network)
    layers = make_network(Checkpoint(spec=network.spec, labels=labels, weights=weights))
    total = sum(len(source.usable) for source in sources)
    wanted = min(CALIBRATION_PICTURES, total)
    statistics = calibrate(
        layers,
        islice(_pictures(sources, wanted, listener), wanted),
        progress=lambda done: listener.calibrated(done, wanted),
    )
    values = choose_steps(layers, statistics, ranges=RANGES)
    return {name: [float(v.scale), int(v.zero_point)] for name, v in values.items()}


def make_rounding_network(network: SSD, steps: dict[str, Any]) -> FakeQuantizedSSD:
    """A network's weights in one that rounds. CheckpointError: the steps are not those of the
    network's values."""
    try:
        values = {name: Steps(float(s), int(z)) for name, (s, z) in steps.items()}
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"the run's note {NOTE_INT8_STEPS} is broken ({error}); begin another run with --qat"
        ) from None
    rounding = FakeQuantizedSSD(network.spec, values)
    rounding.load_state_dict(network.state_dict())
    return rounding


def _pictures(
    sources: Sequence[TrainingSet], wanted: int, listener: TrainListener
) -> Iterator[NDArray[np.uint8]]:
    """So many pictures, from each set in proportion, spread evenly over it."""
    total = sum(len(source.usable) for source in sources)
    for source in sources:
        share = max(1, round(wanted * len(source.usable) / total))
        pictures = from_dataset(source.dataset, pictures=share)
        yield from pictures.read(lambda problem: listener.warned(str(problem)))
