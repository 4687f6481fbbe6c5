"""What a network is: every number that shapes it, in one frozen value, which travels with the
weights in the metadata of checkpoints, ONNX files and packages.

Source of the figures: the SSD training and inference benchmarks (ResNet-34 backbone, 300 and 1200
pixels).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ssd34.errors import OptionError

BACKBONE_BLOCKS: dict[str, tuple[int, int, int]] = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
}
"""BasicBlocks in layer1, layer2 and layer3 of each backbone."""

BACKBONE_CHANNELS, BACKBONE_STRIDES = (64, 128, 256), (1, 2, 1)
"""Output channels and strides of layer1, layer2 and layer3; ImageNet's layer3 has stride 2."""

NORM_EPSILON = 1e-5
"""What batch norm adds to the variance."""


@dataclass(frozen=True)
class ExtraBlock:
    """One extra feature block: 1x1 convolution, ReLU, 3x3 convolution, ReLU."""

    middle_channels: int
    channels: int
    stride: int
    padding: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of one detector network. All sizes in pixels of the network's input.

    Attributes:
        backbone: a key of `BACKBONE_BLOCKS`.
        image_size: side of the square input.
        num_classes: classes without background; the heads have one channel more.
        extra_blocks: the five blocks behind the backbone.
        head_stride: stride of the location and confidence convolutions (3x3, padding 1).
        scales: default box scales, one more than there are levels.
        aspect_ratios: per level, beside the two square boxes.
        steps: distance of neighbouring default box centres, per level.
        whole_steps: place centres at (j + 0.5) / (image_size // step) as the 1200-pixel network
            does, instead of (j + 0.5) / (image_size / step).
        head_norm: batch normalisation in the extra blocks.
    """

    name: str
    backbone: str
    image_size: int
    num_classes: int = 80
    extra_blocks: tuple[ExtraBlock, ...]
    head_stride: int
    scales: tuple[float, ...]
    aspect_ratios: tuple[tuple[int, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    steps: tuple[float, ...]
    whole_steps: bool
    head_norm: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONE_BLOCKS:
            raise OptionError(
                f"unknown backbone {self.backbone!r}; expected one of {', '.join(BACKBONE_BLOCKS)}"
            )
        if self.num_classes < 1 or self.image_size < 32:
            raise OptionError(
                "expected num_classes >= 1 and image_size >= 32, got "
                f"{self.num_classes} and {self.image_size}"
            )
        levels = len(self.steps)
        if not len(self.aspect_ratios) == levels == len(self.scales) - 1:
            raise OptionError(
                f"expected one step and one tuple of aspect ratios per level and one scale "
                f"more, got {levels} steps, {len(self.aspect_ratios)} aspect ratios and "
                f"{len(self.scales)} scales"
            )
        if levels != len(self.extra_blocks) + 1:
            raise OptionError(f"expected {levels - 1} extra blocks, got {len(self.extra_blocks)}")
        blocks = (one for block in self.extra_blocks for one in dataclasses.astuple(block))
        sizes = (self.image_size, self.head_stride, *blocks)
        if wrong := [one for one in sizes if not isinstance(one, int) or isinstance(one, bool)]:
            raise OptionError(
                f"expected image_size, head_stride and blocks of type int, got {wrong[0]!r}"
            )
        ratios = (ratio for level in self.aspect_ratios for ratio in level)
        if not all(one > 0 for one in (self.head_stride, *self.steps, *self.scales, *ratios)):
            raise OptionError("expected head_stride, steps, scales and aspect ratios above 0")

    @cached_property
    def backbone_feature_size(self) -> int:
        """Side of the backbone's output: stem, max-pool and layer2 halve; layer3 does not."""
        size = _conv_out(self.image_size, 7, 2, 3)
        return _conv_out(_conv_out(size, 3, 2, 1), 3, 2, 1)

    @cached_property
    def feature_sizes(self) -> tuple[int, ...]:
        """Side of the head's output on each level."""
        inputs = [self.backbone_feature_size]
        for block in self.extra_blocks:
            inputs.append(_conv_out(inputs[-1], 3, block.stride, block.padding))
        return tuple(_conv_out(side, 3, self.head_stride, 1) for side in inputs)

    @cached_property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the feature map that each level's heads read."""
        return (BACKBONE_CHANNELS[-1], *(block.channels for block in self.extra_blocks))

    @cached_property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each cell of each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @cached_property
    def num_default_boxes(self) -> int:
        """Default boxes over all levels."""
        return sum(
            side * side * count
            for side, count in zip(self.feature_sizes, self.boxes_per_cell, strict=True)
        )

    @property
    def num_channels(self) -> int:
        """Channels of the confidence output: the classes and background, which is channel 0."""
        return self.num_classes + 1

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def at_size(self, image_size: int) -> ModelSpec:
        """The same network on an input of another side in pixels, for training at lower resolution.

        Default boxes keep their share of the picture. Levels whose feature map vanishes are
        dropped; weights of the others are the same.
        """
        if image_size == self.image_size:
            return self
        ratio = image_size / self.image_size
        sides = self.replace(name=f"{self.name}@{image_size}", image_size=image_size).feature_sizes
        levels = next((k for k, side in enumerate(sides) if side < 1), len(sides))
        return self.replace(
            name=f"{self.name}@{image_size}",
            image_size=image_size,
            extra_blocks=self.extra_blocks[: levels - 1],
            scales=tuple(scale * ratio for scale in self.scales[: levels + 1]),
            aspect_ratios=self.aspect_ratios[:levels],
            steps=tuple(image_size / side for side in sides[:levels]),
            whole_steps=False,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`; OptionError for a field missing, unknown or malformed."""
        values = {"backbone" if name == "trunk" else name: v for name, v in values.items()}
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise OptionError(f"a model spec has no field {unknown[0]!r}")
        try:
            values |= {
                "extra_blocks": tuple(ExtraBlock(**block) for block in values["extra_blocks"]),
                "scales": tuple(values["scales"]),
                "aspect_ratios": tuple(tuple(r) for r in values["aspect_ratios"]),
                "steps": tuple(values["steps"]),
            }
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise OptionError(f"not a model spec: {error}") from error


def _conv_out(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output side of a convolution or pooling over a square input."""
    return max(0, (size + 2 * padding - kernel) // stride + 1)


_FIRST_BLOCKS = (
    ExtraBlock(256, 512, stride=2, padding=1),
    ExtraBlock(256, 512, stride=2, padding=1),
    ExtraBlock(128, 256, stride=2, padding=1),
)
_LAST_BLOCK = ExtraBlock(128, 256, stride=1, padding=0)
_PUBLISHED = (
    ModelSpec(
        name="ssd300-resnet34",
        backbone="resnet34",
        image_size=300,
        extra_blocks=(*_FIRST_BLOCKS, _LAST_BLOCK, _LAST_BLOCK),
        head_stride=1,
        scales=(21, 45, 99, 153, 207, 261, 315),
        steps=(8, 16, 32, 64, 100, 300),
        whole_steps=False,
    ),
    ModelSpec(
        name="ssd1200-resnet34",
        backbone="resnet34",
        image_size=1200,
        extra_blocks=(*_FIRST_BLOCKS, ExtraBlock(128, 256, stride=2, padding=0), _LAST_BLOCK),
        head_stride=3,
        scales=(84, 180, 396, 612, 828, 1044, 1260),
        steps=(24, 48, 92, 171, 400, 400),
        whole_steps=True,
    ),
)
_SMALLER = (s.replace(name=f"ssd{s.image_size}-resnet18", backbone="resnet18") for s in _PUBLISHED)

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in (*_PUBLISHED, *_SMALLER)}
"""The named specs. The two with ResNet-34 are the published networks."""


def named_spec(name: str) -> ModelSpec:
    """The spec of a name; OptionError, which lists them, where there is none."""
    try:
        return SPECS[name]
    except KeyError:
        raise OptionError(f"unknown spec {name!r}; expected one of {', '.join(SPECS)}") from None


def rename_trunk(text: str) -> str:
    """A name, or text of JSON, of an older version, which said trunk, in the words of today."""
    return re.sub(r"(?<![\w])trunk(?=[._\"])", "backbone", text)
