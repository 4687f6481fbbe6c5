"""The extra feature blocks and the detector heads. Source: the SSD training benchmark."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ssd34.core.spec import ExtraBlock, ModelSpec
from ssd34.network.backbone import convolve


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
        loc, conf = self.loc[level](features), self.conf[level](features)
        return loc.flatten(1).unflatten(1, (4, -1)), conf.flatten(1).unflatten(
            1, (self.num_channels, -1)
        )
