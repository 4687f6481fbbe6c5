"""A float network as a list of layers: what quantization reads and rewrites.

Batch norm is folded and rectifiers belong to the layer before them, so that one layer is one
operator of the int8 file, and one value between layers is one tensor with one scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.core.score_calibration import ScoreCalibration
from ssd34.core.spec import ModelSpec
from ssd34.deploy.fold import Conv
from ssd34.deploy.graph import GraphBuilder
from ssd34.deploy.ranges import Affine
from ssd34.errors import OptionError

IMAGE = "image"
"""The network's input: (N, 3, S, S), normalised."""

CONV, ADD, MAXPOOL = "conv", "add", "maxpool"


@dataclass(frozen=True, eq=False)
class Layer:
    """One operator; its output is a value of the same name.

    Attributes:
        name: for example ``"trunk.layer3.0.conv1"``.
        kind: ``"conv"``, ``"add"`` or ``"maxpool"``.
        inputs: names of the values that it reads: one, or two for an addition.
        relu: whether a rectifier follows.
        conv: the arrays of a convolution.
        kernel: side of the window.
        stride: step of the window.
        padding: zeros on each side.
        end_padding: zeros at the right and the bottom where they are others; None: `padding`.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    relu: bool = False
    conv: Conv | None = None
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    end_padding: int | None = None

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


@dataclass(frozen=True, eq=False)
class Network:
    """All layers, each after those that it reads.

    Attributes:
        spec: the network's shape.
        labels: its classes.
        layers: in the order of computation.
        loc: name of each level's location head.
        conf: name of each level's confidence head.
        trained: the picture and each layer to the steps that quantization-aware training used;
            empty without.
        score_calibration: what the biases of the confidence heads hold already; None: nothing.
    """

    spec: ModelSpec
    labels: LabelSet
    layers: tuple[Layer, ...]
    loc: tuple[str, ...]
    conf: tuple[str, ...]
    trained: Mapping[str, Affine] = field(default_factory=dict)
    score_calibration: ScoreCalibration | None = None

    @cached_property
    def by_name(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

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

    def check_names(self, names: Collection[str]) -> None:
        """
        Raises:
            OptionError: a name is not one of a layer; the message gives the closest ones, or
                some.
        """
        import difflib

        for name in names:
            if name not in self.by_name:
                close = difflib.get_close_matches(name, self.by_name, n=3)
                layers = list(self.by_name)
                some = f"its {len(layers)} layers are {', '.join(layers[:3])} ... {layers[-1]}"
                hint = f"did you mean {', '.join(close)}?" if close else some
                raise OptionError(f"{self.spec.name} has no node {name!r}; {hint}")


def float_layer(builder: GraphBuilder, layer: Layer, inputs: Sequence[str], output: str) -> str:
    """Add a layer in float32, its rectifier included; returns `output`, its value's name."""
    name = f"{output}.linear" if layer.relu else output
    if layer.kind == CONV:
        weight = builder.weight(f"{layer.name}.weight", layer.arrays.weight)
        bias = builder.constant(f"{layer.name}.bias", layer.arrays.bias)
        builder.node("Conv", name, [*inputs, weight, bias], **layer.window)
    elif layer.kind == ADD:
        builder.node("Add", name, inputs)
    else:
        builder.node("MaxPool", name, inputs, **layer.window)
    return builder.node("Relu", output, [name]) if layer.relu else name


def flattened_heads(
    builder: GraphBuilder, network: Network, outputs: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Each level's heads as (N, 4, boxes) and (N, channels, boxes).

    Args:
        builder: receives the nodes.
        network: whose heads they are.
        outputs: head name to the name of its float32 output (N, boxes * channels, H, W).
    """
    flat: list[list[str]] = []
    for kind, names, channels in (
        ("loc", network.loc, 4),
        ("conf", network.conf, network.spec.num_channels),
    ):
        form: NDArray[np.int64] = np.array([0, channels, -1], np.int64)
        shape = builder.constant(f"heads.{kind}.shape", form)
        flat.append(
            [builder.node("Reshape", f"{name}.flat", [outputs[name], shape]) for name in names]
        )
    return flat[0], flat[1]
