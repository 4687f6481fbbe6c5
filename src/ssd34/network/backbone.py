"""The backbone: ResNet without its last stage, at output stride 8.

Source: ResNet (He et al., 2015) in torchvision's naming; layer3 keeps stride 1, layer4 and the
classifier are left out, as in the SSD training benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssd34.core.spec import BACKBONE_BLOCKS, BACKBONE_CHANNELS, BACKBONE_STRIDES


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
