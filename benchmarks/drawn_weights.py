"""The benchmark's checkpoint with drawn weights: as its authors save it, and the same every time.

Values keep their size on the way through the network, which those of an untrained one do not.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ssd34.core.spec import ModelSpec
from ssd34.network.ssd import SSD

_BACKBONE = {
    "backbone.conv1.": "model.layer1.0.",
    "backbone.bn1.": "model.layer1.1.",
    "backbone.layer1.": "model.layer1.4.",
    "backbone.layer2.": "model.layer1.5.",
    "backbone.layer3.": "model.layer2.0.",
}


def drawn_benchmark_weights(spec: ModelSpec) -> dict[str, Tensor]:
    """Over the sorted keys, from a generator seeded with 34."""
    generator = torch.Generator().manual_seed(34)
    named = {_benchmark_name(ours): like for ours, like in SSD(spec).state_dict().items()}
    return {key: _drawn(key, named[key], generator) for key in sorted(named)}


def _benchmark_name(ours: str) -> str:
    for prefix, theirs in _BACKBONE.items():
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    if found := re.fullmatch(r"extras\.(\d)\.conv([12])\.(weight|bias)", ours):
        return f"additional_blocks.{found[1]}.{2 * int(found[2]) - 2}.{found[3]}"
    return ours.removeprefix("heads.")


def _drawn(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return like.clone()
    if leaf == "running_var":
        return torch.rand(like.shape, generator=generator) * 0.5 + 0.75
    if leaf == "weight" and like.dim() == 1:
        return torch.rand(like.shape, generator=generator) * 0.5 + 0.5
    spread = 0.1 if like.dim() == 1 else (2 / like[0].numel()) ** 0.5 * 0.7
    return torch.randn(like.shape, generator=generator) * spread
