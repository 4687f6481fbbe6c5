"""Which layers lose most by int8: the order in which they go back to float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd34.deploy.calibrate import Statistics
from ssd34.deploy.graph import save_model
from ssd34.deploy.network import ADD, IMAGE, Network
from ssd34.deploy.quantize import QuantizeOptions, quantized_model
from ssd34.runtime.session import Session


@dataclass(frozen=True)
class LayerCost:
    """What int8 costs and saves in one layer.

    Attributes:
        name: the layer.
        noise: mean square of the change of the raw outputs when this layer alone is in int8, as
            a share of their variance; loc and conf count alike.
        milliseconds: what int8 saves there, estimated from its share of the multiplications.
    """

    name: str
    noise: float
    milliseconds: float

    @property
    def noise_per_ms(self) -> float:
        """What decides the order."""
        return self.noise / self.milliseconds


def layer_costs(
    network: Network,
    statistics: Statistics,
    options: QuantizeOptions,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    saved_ms: float,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[LayerCost]:
    """The cost of every convolution, the worst per millisecond first.

    Args:
        network: in float.
        statistics: its calibration.
        options: how each layer is quantized.
        pictures: each (H, W, 3) uint8 RGB; a few are enough.
        saved_ms: what the whole network saves by int8, to be shared out.
        threads: None: what this process may use.
        progress: called with the number of layers done.
    """
    everything = tuple(network.by_name)
    runs = multiplications(network)
    total = sum(runs.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"

        def outputs(in_float: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            chosen = options.replace(float_nodes=in_float)
            save_model(quantized_model(network, statistics, chosen, policy=None), path)
            session = Session(path, threads=threads)
            raw = [session.run_raw(session.input_for(picture)) for picture in pictures]
            return (
                np.concatenate([loc for loc, _ in raw]),
                np.concatenate([conf for _, conf in raw]),
            )

        reference = outputs(everything)
        costs: list[LayerCost] = []
        for name, count in runs.items():
            changed = outputs(tuple(layer for layer in everything if layer != name))
            noise = sum(
                float(np.mean((b - a) ** 2) / max(float(a.var()), 1e-12))
                for a, b in zip(reference, changed, strict=True)
            )
            costs.append(LayerCost(name, noise, max(saved_ms, 1e-3) * count / total))
            progress(len(costs))
    return sorted(costs, key=lambda cost: -cost.noise_per_ms)


def multiplications(network: Network) -> dict[str, int]:
    """Multiplications of each convolution for one picture."""
    sides = {IMAGE: network.spec.image_size}
    counts: dict[str, int] = {}
    for layer in network.layers:
        side = sides[layer.inputs[0]]
        if layer.kind != ADD:
            side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        sides[layer.name] = side
        if layer.conv is not None:
            counts[layer.name] = layer.conv.weight.size * side**2
    return counts
