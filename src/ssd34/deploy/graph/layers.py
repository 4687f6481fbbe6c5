"""One list of layers describes the network: exporting, reading and quantizing are built on it.

Batch norm is folded and rectifiers belong to the layer before them: one layer is one operator of
the int8 file, called like it, and one value between layers is one tensor with one scale.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import NOTE_INT8_STEPS, ScoreCalibration
from ssd34.core.labels import LabelSet
from ssd34.core.spec import (
    BACKBONE_BLOCKS,
    BACKBONE_CHANNELS,
    BACKBONE_STRIDES,
    NORM_EPSILON,
    ModelSpec,
    rename_trunk,
)
from ssd34.errors import CheckpointError, ModelError, OptionError
from ssd34.files.checkpoint import Arrays, Checkpoint

IMAGE = "image"
"""The network's input: (N, 3, S, S), normalised."""

CONV, ADD, MAXPOOL = "conv", "add", "maxpool"

LEVELS = 256
"""Steps of a uint8."""

_SMALLEST_STEP = 2.0**-60

BACKBONE = "backbone"
"""The first part of the names of the backbone's layers and of their arrays in a checkpoint."""

_NODE_ENDS = (".relu", ".linear")
"""Of a layer's nodes: its rectifier, and its operator in files of earlier versions."""


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution's arrays: weight (O, I, K, K) and bias (O,), both float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Affine:
    """value = (step - zero_point) * scale, step a uint8.

    Attributes:
        scale: float32, above zero.
        zero_point: 0 to 255.
    """

    scale: np.float32
    zero_point: np.uint8

    @classmethod
    def spanning(cls, low: float, high: float) -> Affine:
        """The finest steps that hold a range of values and zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        exact = -low / max((high - low) / (LEVELS - 1), _SMALLEST_STEP)
        first, last = int(low < 0), LEVELS - 1 - int(high > 0)
        candidates = {min(max(round_(exact), first), last) for round_ in (math.floor, math.ceil)}
        scale, zero_point = min(
            (max(-low / max(zero, 1), high / max(LEVELS - 1 - zero, 1), _SMALLEST_STEP), zero)
            for zero in candidates
        )
        return cls(np.float32(scale), np.uint8(zero_point))

    def widened(self, offset: float) -> Affine:
        """Steps that also hold what these hold, moved by an offset."""
        zero = np.float32(self.zero_point)
        low, high = (float((np.float32(step) - zero) * self.scale) for step in (0, LEVELS - 1))
        return Affine.spanning(low + min(offset, 0.0), high + max(offset, 0.0))


@dataclass(frozen=True, eq=False)
class Layer:
    """One operator; its output is a value of the same name.

    Attributes:
        name: for example ``"backbone.layer3.0.conv1"``.
        kind: ``"conv"``, ``"add"`` or ``"maxpool"``.
        inputs: names of the values that it reads: one, or two for an addition.
        relu: whether a rectifier follows.
        kernel: side of the window.
        padding: zeros on each side.
        end_padding: zeros at the right and the bottom where they are others; None: `padding`.
        channels: outputs and inputs of a convolution.
        stored: the name of a convolution's arrays in a checkpoint.
        norm: the name of its batch norm's, which is folded into it; None without.
        head: ``"loc"`` or ``"conf"`` where it is a level's output.
        conv: the arrays of a convolution; None in a description without weights.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    relu: bool = False
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    end_padding: int | None = None
    channels: tuple[int, int] | None = None
    stored: str = ""
    norm: str | None = None
    head: str | None = None
    conv: Conv | None = None

    @property
    def arrays(self) -> Conv:
        """Weight and bias of a convolution."""
        assert self.conv is not None
        return self.conv

    @property
    def window(self) -> dict[str, Any]:
        """The window as attributes of ONNX's Conv, QLinearConv and MaxPool."""
        return {
            "kernel_shape": [self.kernel] * 2,
            "strides": [self.stride] * 2,
            "pads": [self.padding] * 2
            + [self.padding if self.end_padding is None else self.end_padding] * 2,
        }

    def with_arrays(self, conv: Conv) -> Layer:
        """The layer with its weights; ModelError: they are not finite."""
        if not (np.isfinite(conv.weight).all() and np.isfinite(conv.bias).all()):
            raise ModelError(f"the weights of {self.name} are not finite; train or export it again")
        return dataclasses.replace(self, conv=conv)


def list_layers(spec: ModelSpec) -> tuple[Layer, ...]:
    """The description of a network: its layers without weights, each after those that it reads."""
    layers: list[Layer] = []
    width = {IMAGE: 3}

    def add(layer: Layer, channels: int) -> str:
        layers.append(layer)
        width[layer.name] = channels
        return layer.name

    def conv(
        name: str, x: str, channels: int, *, kernel: int = 3, padding: int = 1, **more: Any
    ) -> str:
        layer = Layer(
            name, CONV, (x,), kernel=kernel, padding=padding, channels=(channels, width[x]),
            **{"stored": name, **more},
        )  # fmt: skip
        return add(layer, channels)

    x = conv(
        f"{BACKBONE}.conv1", IMAGE, 64, kernel=7, stride=2, padding=3, relu=True,
        norm=f"{BACKBONE}.bn1",
    )  # fmt: skip
    x = add(Layer(f"{BACKBONE}.maxpool", MAXPOOL, (x,), kernel=3, stride=2, padding=1), 64)
    stages = zip(BACKBONE_BLOCKS[spec.backbone], BACKBONE_CHANNELS, BACKBONE_STRIDES, strict=True)
    for stage, (blocks, channels, first_stride) in enumerate(stages, start=1):
        for number in range(blocks):
            name, stride = f"{BACKBONE}.layer{stage}.{number}", 1 if number else first_stride
            y = conv(f"{name}.conv1", x, channels, stride=stride, relu=True, norm=f"{name}.bn1")
            y = conv(f"{name}.conv2", y, channels, norm=f"{name}.bn2")
            if width[x] != channels:
                shortcut = f"{name}.downsample"
                x = conv(
                    shortcut, x, channels, kernel=1, stride=stride, padding=0,
                    stored=f"{shortcut}.0", norm=f"{shortcut}.1",
                )  # fmt: skip
            x = add(Layer(f"{name}.add", ADD, (y, x), relu=True), channels)
    for level, channels in enumerate(spec.level_channels):
        if level > 0:
            block, name = spec.extra_blocks[level - 1], f"extras.{level - 1}"
            norms = [f"{name}.norm{part}" if spec.head_norm else None for part in (1, 2)]
            x = conv(
                f"{name}.conv1", x, block.middle_channels, kernel=1, padding=0, relu=True,
                norm=norms[0],
            )  # fmt: skip
            x = conv(
                f"{name}.conv2", x, channels, stride=block.stride, padding=block.padding,
                relu=True, norm=norms[1],
            )  # fmt: skip
        for head, each in (("loc", 4), ("conf", spec.num_channels)):
            outputs = spec.boxes_per_cell[level] * each
            conv(f"heads.{head}.{level}", x, outputs, stride=spec.head_stride, head=head)
    return tuple(layers)


@dataclass(frozen=True, eq=False)
class Network:
    """All layers with their weights, each after those that it reads.

    Attributes:
        layers: those that `list_layers` gives for the spec, with weights.
        trained: the picture and each layer to the steps that quantization-aware training used;
            empty without.
        score_calibration: what the biases of the confidence heads hold already; None: nothing.
    """

    spec: ModelSpec
    labels: LabelSet
    layers: tuple[Layer, ...]
    trained: Mapping[str, Affine] = field(default_factory=dict)
    score_calibration: ScoreCalibration | None = None

    @cached_property
    def by_name(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def convs(self) -> tuple[Layer, ...]:
        """The convolutions."""
        return tuple(layer for layer in self.layers if layer.kind == CONV)

    @cached_property
    def loc(self) -> tuple[str, ...]:
        """Name of each level's location head."""
        return tuple(layer.name for layer in self.layers if layer.head == "loc")

    @cached_property
    def conf(self) -> tuple[str, ...]:
        """Name of each level's confidence head."""
        return tuple(layer.name for layer in self.layers if layer.head == "conf")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of spec and weights, hexadecimal: which network statistics belong to."""
        digest = hashlib.sha256(repr(self.spec).encode())
        for layer in self.layers:
            digest.update(repr((layer.name, layer.kind, layer.inputs, layer.relu)).encode())
            if layer.conv is not None:
                digest.update(np.ascontiguousarray(layer.conv.weight).tobytes())
                digest.update(np.ascontiguousarray(layer.conv.bias).tobytes())
        return digest.hexdigest()

    @cached_property
    def steps_fingerprint(self) -> str | None:
        """SHA-256 of the trained steps, hexadecimal; None without. Trials depend on them, the
        float network's statistics do not."""
        if not self.trained:
            return None
        steps = [(name, float(s.scale), int(s.zero_point)) for name, s in self.trained.items()]
        return hashlib.sha256(repr(sorted(steps)).encode()).hexdigest()

    def resolve_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """The layers that names of nodes stand for, or of their rectifiers, each once. OptionError:
        a name is none of these; the message gives the closest ones, or some."""
        found: dict[str, None] = {}
        for name in names:
            ends = (rename_trunk(name).removesuffix(end) for end in ("", *_NODE_ENDS))
            layer = next((each for each in ends if each in self.by_name), None)
            if layer is None:
                close = difflib.get_close_matches(name, self.by_name, n=3)
                layers = list(self.by_name)
                some = f"its {len(layers)} layers are {', '.join(layers[:3])} ... {layers[-1]}"
                hint = f"did you mean {', '.join(close)}?" if close else some
                raise OptionError(f"{self.spec.name} has no node {name!r}; {hint}")
            found[layer] = None
        return tuple(found)


def make_network(checkpoint: Checkpoint) -> Network:
    """A checkpoint's network, batch norm and score calibration folded. CheckpointError: an array is
    missing or misshapen, or the trained steps are broken. ModelError: the weights are not
    finite."""
    weights, scores = checkpoint.calibrated.weights, checkpoint.score_calibration
    layers = tuple(
        layer.with_arrays(_arrays_of(layer, weights)) if layer.kind == CONV else layer
        for layer in list_layers(checkpoint.spec)
    )
    network = Network(checkpoint.spec, checkpoint.labels, layers, score_calibration=scores)
    notes = checkpoint.state.get("notes") or {}
    steps = notes.get(NOTE_INT8_STEPS) if isinstance(notes, dict) else None
    if steps is None:
        return network
    try:
        trained = {
            name: Affine(np.float32(scale), np.uint8(zero_point))
            for name, (scale, zero_point) in steps.items()
        }
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint's {NOTE_INT8_STEPS} are broken ({error})") from None
    usable = all(np.isfinite(v.scale) and v.scale > 0 for v in trained.values())
    if not usable or set(trained) != {IMAGE, *network.by_name}:
        raise CheckpointError(
            f"the checkpoint's {NOTE_INT8_STEPS} are not those of its layers; train it again"
        )
    if scores is not None:
        offset = scores.background_offset
        trained |= {name: trained[name].widened(offset) for name in network.conf}
    return dataclasses.replace(network, trained=trained)


def _arrays_of(layer: Layer, weights: Arrays) -> Conv:
    """A convolution's arrays from a checkpoint's, the batch norm behind it folded in."""
    assert layer.channels is not None
    outputs = layer.channels[:1]

    def take(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        if name not in weights:
            raise CheckpointError(f"the checkpoint lacks the array {name}")
        if weights[name].shape != shape:
            raise CheckpointError(
                f"the checkpoint's {name} has the shape {weights[name].shape}, expected {shape}"
            )
        return weights[name].astype(np.float64)

    weight = take(f"{layer.stored}.weight", (*layer.channels, layer.kernel, layer.kernel))
    name = f"{layer.stored}.bias"
    bias = take(name, outputs) if name in weights else np.zeros(outputs)
    if layer.norm is None:
        return Conv(weight.astype(np.float32), bias.astype(np.float32))
    parts = ("weight", "bias", "running_mean", "running_var")
    norm = [take(f"{layer.norm}.{part}", outputs) for part in parts]
    return fold_batch_norm(weight, bias, norm, epsilon=NORM_EPSILON)


def fold_batch_norm(
    weight: NDArray[Any], bias: NDArray[Any], norm: Sequence[NDArray[Any]], *, epsilon: float
) -> Conv:
    """A convolution (weight (O, I, K, K), bias (O,)) with the batch norm behind it folded in: its
    weight, bias, mean and variance, each (O,), and `epsilon`, which is added to the variance."""
    gamma, beta, mean, variance = (array.astype(np.float64) for array in norm)
    scale = gamma / np.sqrt(variance + epsilon)
    folded = weight * scale[:, None, None, None]
    return Conv(folded.astype(np.float32), (beta + (bias - mean) * scale).astype(np.float32))


QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)
"""Operators that only int8 networks have, beside those that are called QLinear..."""
