"""The Single Stage Detector: backbone, extra feature blocks, heads.

The backbone is a ResNet (He et al., 2015) in torchvision's naming without its last stage, at output
stride 8: layer3 keeps stride 1, layer4 and the classifier are left out. Source of that and of the
rest: the SSD training benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssd34.core.spec import (
    BACKBONE_BLOCKS,
    BACKBONE_CHANNELS,
    BACKBONE_STRIDES,
    ExtraBlock,
    ModelSpec,
)
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Arrays


def convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor) -> Tensor:
    """A convolution and the normalisation behind it, as one convolution where the normalisation is
    frozen: the same function, without a pass over the activations."""
    if norm is None or norm.training:
        y: Tensor = conv(x) if norm is None else norm(conv(x))
        return y
    weight, bias = fold_parameters(conv, norm)
    return functional.conv2d(x, weight, bias, conv.stride, conv.padding)


def fold_parameters(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight (O, I, K, K) and bias (O,) of a convolution, the normalisation behind it folded in
    with the statistics that it has. Gradients reach the parameters of both."""
    bias = conv.bias
    if norm is None:
        return conv.weight, torch.zeros_like(conv.weight[:, 0, 0, 0]) if bias is None else bias
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    bias = shift if bias is None else shift + bias * scale
    return conv.weight * scale[:, None, None, None], bias


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. (N, C, H, W) to (N, channels, H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = functional.relu(convolve(self.conv1, self.bn1, x), inplace=True)
        y = convolve(self.conv2, self.bn2, y)
        if self.downsample is not None:
            conv, norm = self.downsample
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            x = convolve(conv, norm, x)
        return functional.relu(y + x, inplace=True)


class Backbone(nn.Module):
    """conv1 to layer3. (N, 3, S, S) normalised pictures to (N, 256, S/8, S/8) features."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for stage, (blocks, channels, stride) in enumerate(
            zip(BACKBONE_BLOCKS[name], BACKBONE_CHANNELS, BACKBONE_STRIDES, strict=True), start=1
        ):
            layer = nn.Sequential(
                BasicBlock(in_channels, channels, stride),
                *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)),
            )
            self.add_module(f"layer{stage}", layer)
            in_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = functional.relu(convolve(self.conv1, self.bn1, x), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def stages(self) -> list[list[nn.Module]]:
        """The parts in forward order, for freezing the first ones: stem, layer1, layer2, layer3."""
        layers = [[self.get_submodule(f"layer{stage}")] for stage in (1, 2, 3)]
        return [[self.conv1, self.bn1], *layers]


class ExtraFeatures(nn.Module):
    """1x1 convolution, ReLU, 3x3 convolution, ReLU; each optionally normalised."""

    def __init__(self, in_channels: int, block: ExtraBlock, *, norm: bool) -> None:
        super().__init__()
        middle, out = block.middle_channels, block.channels
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(middle) if norm else None
        self.conv2 = nn.Conv2d(middle, out, 3, block.stride, block.padding, bias=not norm)
        self.norm2 = nn.BatchNorm2d(out) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = functional.relu(convolve(self.conv1, self.norm1, x), inplace=True)
        return functional.relu(convolve(self.conv2, self.norm2, x), inplace=True)


class Heads(nn.Module):
    """The location and confidence convolution of every level."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        levels = list(zip(spec.level_channels, spec.boxes_per_cell, strict=True))
        stride = spec.head_stride
        self.num_channels = spec.num_channels
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, stride, 1) for c, n in levels)
        self.conf = nn.ModuleList(
            nn.Conv2d(c, spec.num_channels * n, 3, stride, 1) for c, n in levels
        )

    def forward(self, features: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) of one level to loc (N, 4, boxes) and conf (N, channels, boxes),
        ordered by box shape, row, column."""
        return (
            self.loc[level](features).flatten(1).unflatten(1, (4, -1)),
            self.conf[level](features).flatten(1).unflatten(1, (self.num_channels, -1)),
        )


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
        """Raw outputs, loc (N, 4, A) offsets and conf (N, classes + 1, A) logits, channel 0
        background, for normalised pictures (N, 3, S, S) of a size that `ModelSpec.at_size`
        takes."""
        levels = len(self.spec.at_size(images.shape[-1]).steps)
        features = self._backbone(images)
        outputs = [self._level(features, 0)]
        for level in range(1, levels):
            features = self._extra(features, level - 1)
            outputs.append(self._level(features, level))
        return (
            torch.cat([loc for loc, _ in outputs], dim=2),
            torch.cat([conf for _, conf in outputs], dim=2),
        )

    # The three steps that a network which computes otherwise replaces.

    def _backbone(self, images: Tensor) -> Any:
        return self.backbone(images)

    def _extra(self, features: Any, index: int) -> Any:
        return self.extras[index](features)

    def _level(self, features: Any, level: int) -> tuple[Tensor, Tensor]:
        loc, conf = self.heads(features, level)
        return loc, conf


def load_weights(network: nn.Module, weights: Mapping[str, Any], *, source: str) -> None:
    """Copy arrays into a network; CheckpointError names the first parameter that does not fit."""
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


def copy_arrays(network: nn.Module) -> Arrays:
    """A network's parameters and statistics as float32 arrays, without batch counters."""
    return {
        key: value.detach().cpu().float().numpy().copy()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
