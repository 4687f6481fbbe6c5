"""The Single Stage Detector: backbone, extra blocks, heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssd34.core.spec import ModelSpec
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Arrays
from ssd34.network.backbone import Backbone
from ssd34.network.heads import ExtraFeatures, Heads


class SSD(nn.Module):
    """The published network for a spec.

    New extra blocks and heads are drawn with Xavier's uniform rule, as in the benchmark, the
    backbone with He's, as in ResNet.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Backbone(spec.backbone)
        inputs = spec.level_channels[:-1]
        self.extras = nn.ModuleList(
            ExtraFeatures(channels, block, norm=spec.head_norm)
            for channels, block in zip(inputs, spec.extra_blocks, strict=True)
        )
        self.heads = Heads(spec)
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for part in (self.extras, self.heads):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw outputs for pictures of the spec's size, or of one that `ModelSpec.at_size` takes.

        Args:
            images: (N, 3, S, S), normalised.

        Returns:
            loc (N, 4, A) offsets and conf (N, classes + 1, A) logits, channel 0 background.
        """
        levels = len(self.spec.at_size(images.shape[-1]).steps)
        features = self.backbone(images)
        outputs = [self.heads(features, 0)]
        for level in range(1, levels):
            features = self.extras[level - 1](features)
            outputs.append(self.heads(features, level))
        return (
            torch.cat([loc for loc, _ in outputs], dim=2),
            torch.cat([conf for _, conf in outputs], dim=2),
        )


def load_weights(network: nn.Module, weights: Mapping[str, Any], *, source: str) -> None:
    """Copy arrays into a network; every parameter must be there with its shape.

    Raises:
        CheckpointError: the first missing, unexpected or differently shaped name.
    """
    own = network.state_dict()
    given = {k: torch.from_numpy(np.array(a)) for k, a in weights.items()}
    for key in own:
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, own[key])
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unexpected:
        what = f"lacks {missing[0]}" if missing else f"has an unexpected {unexpected[0]}"
        raise CheckpointError(f"{source}: holds the weights of another network: it {what}")
    for key, value in own.items():
        if value.shape != given[key].shape:
            raise CheckpointError(
                f"{source}: holds the weights of another network: {key} is "
                f"{tuple(given[key].shape)}, expected {tuple(value.shape)}"
            )
    network.load_state_dict(given)


def arrays_of(network: nn.Module) -> Arrays:
    """A network's parameters and statistics as float32 arrays, without batch counters."""
    return {
        key: value.detach().cpu().float().numpy().copy()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
