"""The network with the rounding of its int8 file, for quantization-aware fine-tuning.

Parameters and checkpoints are those of `SSD`; only the arithmetic differs. Weights have 7 bits,
with which the file is right and fast on every processor; what that costs, training makes up for.
The gradient passes each rounding unchanged, and is zero where a value is clipped (straight-through
estimator; Jacob et al., 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssd34.core.contract import LARGEST_BIAS, LARGEST_NARROW_WEIGHT
from ssd34.core.spec import ModelSpec
from ssd34.errors import CheckpointError
from ssd34.network.ssd import SSD, BasicBlock, ExtraFeatures, fold_parameters


class Steps(NamedTuple):
    """A tensor's uint8 steps: value = (step - zero_point) * scale."""

    scale: float
    zero_point: int


class _Value(NamedTuple):
    """A tensor that lies on its steps."""

    tensor: Tensor
    scale: float


class FakeQuantizedSSD(SSD):
    """An `SSD` that computes as its int8 file does, in float32. Batch norm is folded with the
    statistics that it has: it has to be frozen."""

    def __init__(self, spec: ModelSpec, values: Mapping[str, Steps]) -> None:
        """With the steps of the picture, ``"image"``, and of each layer's output, by the names of
        the int8 file's layers, such as ``"backbone.layer1.0.conv1"``; CheckpointError where a value
        has none, or steps that are no uint8 steps.
        """
        super().__init__(spec)
        self.values = dict(values)
        if missing := sorted(self._value_names() - self.values.keys()):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{spec.name}: no int8 steps for {missing[0]}{more}; begin another run with --qat"
            )
        for name, (scale, zero_point) in self.values.items():
            if not (0 < scale < float("inf") and 0 <= zero_point <= 255):
                raise CheckpointError(
                    f"{name}: expected int8 steps with a scale > 0 and a zero point of 0 to 255, "
                    f"got {scale:g} and {zero_point}; begin another run with --qat"
                )

    def _value_names(self) -> set[str]:
        """The picture and what each layer computes, a residual block's sum included."""
        names = {"image", "backbone.conv1"}
        for path, module in self.named_modules():
            if isinstance(module, BasicBlock):
                parts = ["conv1", "conv2", "add"]
                parts += [] if module.downsample is None else ["downsample"]
                names |= {f"{path}.{part}" for part in parts}
            elif isinstance(module, ExtraFeatures):
                names |= {f"{path}.conv1", f"{path}.conv2"}
        for kind in ("loc", "conf"):
            names |= {f"heads.{kind}.{level}" for level in range(len(self.spec.steps))}
        return names

    def _backbone(self, images: Tensor) -> _Value:
        backbone, x = self.backbone, self._rounded("image", images)
        x = self._conv("backbone.conv1", backbone.conv1, backbone.bn1, x, relu=True)
        x = _Value(functional.max_pool2d(x.tensor, 3, 2, 1), x.scale)
        for stage in (1, 2, 3):
            for number, block in enumerate(backbone.get_submodule(f"layer{stage}").children()):
                assert isinstance(block, BasicBlock)
                x = self._block(f"backbone.layer{stage}.{number}", block, x)
        return x

    def _block(self, name: str, block: BasicBlock, x: _Value) -> _Value:
        y = self._conv(f"{name}.conv1", block.conv1, block.bn1, x, relu=True)
        y = self._conv(f"{name}.conv2", block.conv2, block.bn2, y)
        if block.downsample is not None:
            conv, norm = block.downsample
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            x = self._conv(f"{name}.downsample", conv, norm, x)
        return self._rounded(f"{name}.add", functional.relu(y.tensor + x.tensor))

    def _extra(self, features: _Value, index: int) -> _Value:
        block, name = self.extras[index], f"extras.{index}"
        assert isinstance(block, ExtraFeatures)
        x = self._conv(f"{name}.conv1", block.conv1, block.norm1, features, relu=True)
        return self._conv(f"{name}.conv2", block.conv2, block.norm2, x, relu=True)

    def _level(self, features: _Value, level: int) -> tuple[Tensor, Tensor]:
        outputs = []
        for kind, channels in (("loc", 4), ("conf", self.spec.num_channels)):
            conv = getattr(self.heads, kind)[level]
            y = self._conv(f"heads.{kind}.{level}", conv, None, features)
            pictures, rows, height, width = y.tensor.shape
            # Without -1: a part of a batch may have no picture.
            shape = (pictures, channels, rows // channels * height * width)
            outputs.append(y.tensor.reshape(shape))
        return outputs[0], outputs[1]

    def _conv(
        self,
        name: str,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        x: _Value,
        *,
        relu: bool = False,
    ) -> _Value:
        weight, bias = fold_parameters(conv, norm)
        weight, bias = _rounded_parameters(weight, bias, input_scale=x.scale)
        y = functional.conv2d(x.tensor, weight, bias, conv.stride, conv.padding)
        return self._rounded(name, functional.relu(y) if relu else y)

    def _rounded(self, name: str, x: Tensor) -> _Value:
        steps = self.values[name]
        rounded = torch.fake_quantize_per_tensor_affine(x, steps.scale, steps.zero_point, 0, 255)
        return _Value(rounded, steps.scale)


def _rounded_parameters(
    weight: Tensor, bias: Tensor, *, input_scale: float
) -> tuple[Tensor, Tensor]:
    """A convolution's weight (O, I, K, K) in int8 steps of 7 bits, a scale for each output channel,
    and its bias (O,) in int32 steps of that scale times the input's."""
    with torch.no_grad():
        reach = weight.abs().amax(dim=(1, 2, 3)).double()
        scale = torch.maximum(
            reach / LARGEST_NARROW_WEIGHT, bias.abs().double() / (input_scale * LARGEST_BIAS)
        )
        scale = torch.where(scale > 0, scale, 1.0).float()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        step = scale.double() * input_scale
        moved = torch.round(bias.double() / step) * step - bias.double()
    rounded = torch.fake_quantize_per_channel_affine(
        weight, scale, zero, 0, -LARGEST_NARROW_WEIGHT, LARGEST_NARROW_WEIGHT
    )
    return rounded, bias + moved.float()
