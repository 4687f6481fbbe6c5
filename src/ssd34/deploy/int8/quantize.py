"""Post-training static quantization: a float network and its calibration to an int8 file.

Activations are uint8, weights symmetric int8, biases int32; decode, softmax and NMS stay in float.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.core.postprocess import ZOO, Policy
from ssd34.core.preprocess import MEAN
from ssd34.deploy.graph.builder import (
    GraphBuilder,
    add_flattened_head,
    add_float_layer,
    add_planes,
    normalise_bytes,
    to_json,
)
from ssd34.deploy.graph.export import ExportOptions, finish_with_outputs
from ssd34.deploy.graph.layers import ADD, CONV, IMAGE, MAXPOOL, Layer, Network
from ssd34.deploy.int8.calibrate import CalibrationStatistics
from ssd34.deploy.int8.plan import (
    Int8Conv,
    Int8Plan,
    QuantizeOptions,
    fold_normalisation,
    plan_int8,
)
from ssd34.version import __version__

_MICROSOFT = "com.microsoft"


PUBLISHED_FORMS = {
    "12-int8": QuantizeOptions(form="qoperator", opset=12),
    "12-qdq": QuantizeOptions(form="qdq", opset=12, per_channel=False),
    "13-qdq": QuantizeOptions(form="qdq", opset=13),
}
"""What the end of a published int8 file's name stands for, as in ``ssd-12-int8``."""


def quantize_network(
    network: Network,
    statistics: CalibrationStatistics,
    options: QuantizeOptions,
    *,
    policy: Policy | None = ZOO,
    batch: int | None = 1,
    image_input: str = "float32",
) -> onnx.ModelProto:
    """The int8 file of a float network and its statistics; policy, batch and image_input are as in
    `ExportOptions`.

    Raises:
        OptionError: an option is outside what is allowed, or a node is unknown.
        ModelError: the statistics belong to another network.
    """
    statistics.check_network(network)
    options = options.replace(float_nodes=network.resolve_names(options.float_nodes))
    export = ExportOptions(opset=options.opset, policy=policy, batch=batch, image_input=image_input)
    plan = plan_int8(network, statistics, options, bytes_input=image_input == "uint8")
    builder = GraphBuilder(opset=options.opset)
    writer = (QdqWriter if options.form == "qdq" else QOperatorWriter)(builder, plan)
    for layer in plan.network.layers:
        writer.add(layer)
    heads = {name: writer.as_float(name) for name in (*network.loc, *network.conf)}
    for name, value in heads.items():
        add_flattened_head(builder, network.spec, network.by_name[name], value)
    how = {**options.to_dict(), "pictures": statistics.pictures, "ssd34": __version__}
    metadata = {METADATA_QUANTIZATION: to_json(how)}
    return finish_with_outputs(builder, network, export, metadata=metadata)


class Int8Writer(ABC):
    """Adds layers to a builder and keeps track of what each value is called, in int8 and in float.
    Rectifiers are not written: a rectified value's zero point is 0, and saturation does the rest.

    The form that an output does not have is made where something needs it: a float layer amid int8
    ones gets DequantizeLinear and QuantizeLinear, two float layers in a row get none in between.
    """

    def __init__(self, builder: GraphBuilder, plan: Int8Plan) -> None:
        self._builder = builder
        self._plan = plan
        self._convs = dict(plan.convs)
        self._float: dict[str, str] = {}
        self._steps: dict[str, str] = {}
        self._rounded: dict[str, str] = {}
        if not plan.bytes_input:
            self._float[IMAGE] = IMAGE

    def add(self, layer: Layer) -> None:
        """Add a layer, whose inputs were added before."""
        reads_image = IMAGE in layer.inputs
        if layer.name not in self._plan.float_nodes:
            self._add_int8(self._reading_image(layer) if reads_image else layer)
            return
        if self._plan.bytes_input and reads_image:
            self._float[IMAGE], layer = normalise_bytes(self._builder, layer)
        inputs = [self.as_float(name) for name in layer.inputs]
        self._float[layer.name] = add_float_layer(self._builder, layer, inputs)

    def _reading_image(self, layer: Layer) -> Layer:
        """The first convolution as one of the picture that the graph makes for it."""
        builder, side = self._builder, self._plan.network.spec.image_size
        whole_blocks = side % 2 == 0
        if self._plan.bytes_input:
            pixels = add_frame(builder, IMAGE, side=side, width=layer.padding)
            side += 2 * layer.padding
            layer = fold_normalisation(layer)
            if whole_blocks:
                pixels = add_blocks_of_bytes(builder, pixels, side=side)
            self._steps[IMAGE] = add_planes(builder, pixels)
        elif whole_blocks:
            self._float[IMAGE] = add_blocks_of_planes(builder, IMAGE)
        if whole_blocks:
            layer, self._convs[layer.name] = convert_to_blocks(
                layer, self._convs[layer.name], side=side
            )
        return layer

    @abstractmethod
    def _add_int8(self, layer: Layer) -> None: ...

    def as_float(self, value: str) -> str:
        """A value's name in float; its steps are turned back where it has no other."""
        return self._float[value] if value in self._float else self._dequantized(value)

    def _dequantized(self, value: str) -> str:
        """The name of a value that went through its steps."""
        if value not in self._rounded:
            self._rounded[value] = self._builder.node(
                "DequantizeLinear", f"{value}.float", [self._as_steps(value), *self._affine(value)]
            )
        return self._rounded[value]

    def _as_steps(self, value: str) -> str:
        """A value's name in uint8 steps; it is quantized where it has no other."""
        if value not in self._steps:
            self._steps[value] = self._builder.node(
                "QuantizeLinear", f"{value}.steps", [self._float[value], *self._affine(value)]
            )
        return self._steps[value]

    def _affine(self, value: str) -> tuple[str, str]:
        """Names of a value's scale and zero point."""
        affine = self._plan.values[value]
        layer = self._plan.network.by_name.get(value)
        if layer is not None and layer.kind == MAXPOOL:  # its input's, and stored once
            return self._affine(layer.inputs[0])
        return (
            self._builder.constant(f"{value}.scale", np.array(affine.scale, np.float32)),
            self._builder.constant(f"{value}.zero_point", np.array(affine.zero_point, np.uint8)),
        )

    def _weight(self, layer: Layer) -> tuple[str, str, str]:
        """Names of a convolution's steps, scale and zero point."""
        conv = self._convs[layer.name]
        zero = np.zeros(conv.scale.shape, np.int8)
        return (
            self._builder.constant(f"{layer.name}.weight", conv.weight),
            self._builder.constant(f"{layer.name}.weight.scale", conv.scale),
            self._builder.constant(f"{layer.name}.weight.zero_point", zero),
        )

    def _bias(self, layer: Layer) -> str:
        return self._builder.constant(f"{layer.name}.bias", self._convs[layer.name].bias)


class QOperatorWriter(Int8Writer):
    """QLinearConv, QLinearAdd and MaxPool of bytes."""

    def _add_int8(self, layer: Layer) -> None:
        inputs = [(self._as_steps(name), *self._affine(name)) for name in layer.inputs]
        output = self._affine(layer.name)
        if layer.kind == CONV:
            parts = [*inputs[0], *self._weight(layer), *output, self._bias(layer)]
            name = self._builder.node("QLinearConv", layer.name, parts, **layer.window)
        elif layer.kind == ADD:
            parts = [*inputs[0], *inputs[1], *output]
            name = self._builder.node("QLinearAdd", layer.name, parts, domain=_MICROSOFT)
        else:
            name = self._builder.node("MaxPool", layer.name, [inputs[0][0]], **layer.window)
        self._steps[layer.name] = name


class QdqWriter(Int8Writer):
    """Float operators that read DequantizeLinear and write to QuantizeLinear."""

    def _add_int8(self, layer: Layer) -> None:
        builder = self._builder
        inputs = [self._dequantized(name) for name in layer.inputs]
        if layer.kind == CONV:
            weight = self._dequantized_constant("weight", layer, self._weight(layer))
            inputs += [weight, self._float_bias(layer)]
        operator = {CONV: "Conv", ADD: "Add", MAXPOOL: "MaxPool"}[layer.kind]
        window = {} if layer.kind == ADD else layer.window
        value = builder.node(operator, layer.name, inputs, **window)
        self._steps[layer.name] = builder.node(
            "QuantizeLinear", f"{layer.name}.steps", [value, *self._affine(layer.name)]
        )

    def _float_bias(self, layer: Layer) -> str:
        scale = self._convs[layer.name].scale * self._plan.values[layer.inputs[0]].scale
        zero = np.zeros(scale.shape, np.int32)
        parts = (
            self._bias(layer),
            self._builder.constant(f"{layer.name}.bias.scale", scale.astype(np.float32)),
            self._builder.constant(f"{layer.name}.bias.zero_point", zero),
        )
        return self._dequantized_constant("bias", layer, parts)

    def _dequantized_constant(self, what: str, layer: Layer, parts: tuple[str, str, str]) -> str:
        axis: dict[str, Any] = {"axis": 0} if self._convs[layer.name].scale.ndim else {}
        return self._builder.node("DequantizeLinear", f"{layer.name}.{what}.float", parts, **axis)


_SIDE = 2
"""Pixels on each side of a block, and the stride of the convolution."""


def convert_to_blocks(layer: Layer, conv: Int8Conv, *, side: int) -> tuple[Layer, Int8Conv]:
    """A convolution that moves by two pixels, with the weight (O, C, K, K), as one of blocks, with
    (O, 4 * C, B, B), B blocks a window: channels are in the order of a block's row, column and
    channel. `side`: of the picture in pixels, even."""
    assert layer.stride == _SIDE
    assert side % _SIDE == 0
    outputs, channels, kernel, _ = conv.weight.shape
    spare = layer.padding % _SIDE  # pixels of the window's first block that it does not reach
    blocks = -(-(spare + kernel) // _SIDE)
    reached = slice(spare, spare + kernel)
    pixels: NDArray[np.int8] = np.zeros((outputs, channels, *[blocks * _SIDE] * 2), np.int8)
    pixels[:, :, reached, reached] = conv.weight
    parts = pixels.reshape(outputs, channels, blocks, _SIDE, blocks, _SIDE)
    weight = parts.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, -1, blocks, blocks)

    before = (layer.padding + spare) // _SIDE
    places = (side + 2 * layer.padding - kernel) // _SIDE + 1
    window = dataclasses.replace(
        layer, kernel=blocks, stride=1, padding=before,
        end_padding=places - 1 + blocks - side // _SIDE - before,
    )  # fmt: skip
    return window, dataclasses.replace(conv, weight=weight)


def add_blocks_of_planes(builder: GraphBuilder, planes: str) -> str:
    """(N, C, S, S) as (N, 4 * C, S / 2, S / 2): float32, as older ONNX Runtimes take no bytes."""
    return builder.node("SpaceToDepth", "input.blocks", [planes], blocksize=_SIDE)


def add_blocks_of_bytes(builder: GraphBuilder, pixels: str, *, side: int) -> str:
    """(N, S, S, C) bytes as (N, S / 2, S / 2, 4 * C): pairs of a row lie together already."""
    rows = []
    half = builder.integers("input.row.shape", 0, 0, side // _SIDE, -1)
    for row in range(_SIDE):
        every_second = builder.slice(f"input.row.{row}", pixels, row, side, axis=1, step=_SIDE)
        rows.append(builder.node("Reshape", f"input.row.{row}.pairs", [every_second, half]))
    return builder.node("Concat", "input.blocks", rows, axis=3)


def add_frame(builder: GraphBuilder, image: str, *, side: int, width: int) -> str:
    """Add a frame of the mean colour, `width` pixels wide, around ``image`` (N, side, side, 3)
    uint8; returns the name of the larger picture."""
    colour = np.rint(np.array(MEAN) * 255).astype(np.uint8)
    shape = builder.node("Shape", "input.shape", [image])
    batch = builder.slice("input.batch", shape, 0, 1, axis=0)
    ones = builder.integers("input.ones", 1, 1, 1)
    batch_shape = builder.node("Concat", "input.batch.shape", [batch, ones], axis=0)
    larger = image
    for name, size, axis in (
        ("columns", (1, side, width, 3), 2),
        ("rows", (1, width, side + 2 * width, 3), 1),
    ):
        strip = builder.constant(f"input.{name}.colour", np.broadcast_to(colour, size))
        strips = builder.node("Expand", f"input.{name}.frame", [strip, batch_shape])
        larger = builder.node("Concat", f"input.{name}", [strips, larger, strips], axis=axis)
    return larger
