"""A file as a `Network`: a checkpoint, an ONNX file of ours, or one of the published float files.

A graph is walked from the picture on; what comes behind the heads is left out, and foreign node
names are replaced by ours, which follow from the structure.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ssd34.core.contract import METADATA_SPEC, read_score_calibration
from ssd34.core.preprocess import MEAN, STD
from ssd34.core.spec import ModelSpec
from ssd34.deploy.graph.layers import (
    ADD,
    CONV,
    IMAGE,
    MAXPOOL,
    QUANTIZED,
    Conv,
    Layer,
    Network,
    fold_batch_norm,
    list_layers,
    make_network,
)
from ssd34.deploy.graph.onnx_file import read_constant, read_identity, read_metadata, read_model
from ssd34.errors import ModelError
from ssd34.files.checkpoint import is_named_checkpoint, read_checkpoint
from ssd34.text import counted, one_line

_PASSED_ON = frozenset({"Identity", "Dropout", "Cast"})


def read_network(path: Path) -> Network:
    """The float network in a checkpoint or an ONNX file.

    Raises:
        CheckpointError: a checkpoint is missing, broken or lacks an array.
        ModelError: an ONNX file is missing, broken, already quantized, not of this family, or its
            weights are not finite.
    """
    if is_named_checkpoint(path):
        return make_network(read_checkpoint(path))
    model = read_model(path)
    try:
        return read_network_of_model(model)
    except ModelError as error:
        bare = METADATA_SPEC not in read_metadata(model)
        hint = "; without ssd34 metadata it has to be the published network" if bare else ""
        raise ModelError(f"{path}: {error}{hint}") from None


def read_network_of_model(model: onnx.ModelProto) -> Network:
    """The float network in a tidied ONNX model; ModelError as `read_network`."""
    for node in model.graph.node:
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            raise ModelError(
                f"is quantized already (it has {node.op_type}); give the float file instead, "
                "such as default-float for default"
            )
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"was optimised for one runtime (it has {node.domain}.{node.op_type}); give the "
                "file that it was made from, which runs as fast"
            )
    spec, labels = read_identity(model)
    scores = read_score_calibration(read_metadata(model))
    try:
        layers = _match(_Walk(model).layers, spec)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        reason = one_line(error, 120)
        raise ModelError(f"not the network of {spec.name}, or broken ({reason})") from None
    return Network(spec, labels, layers, score_calibration=scores)


def _match(found: Sequence[Layer], spec: ModelSpec) -> tuple[Layer, ...]:
    """The layers of a spec with the weights of those found in a file, which hang together alike
    and may have other names."""
    left = list(found)
    read = {name for layer in found for name in layer.inputs}
    names = {IMAGE: IMAGE}  # ours to the file's
    layers: list[Layer] = []
    for wanted in list_layers(spec):
        inputs = {names[name] for name in wanted.inputs}
        alike = [
            layer
            for layer in left
            if set(layer.inputs) == inputs
            and _form(layer) == _form(wanted)
            and (layer.name in read) == (wanted.head is None)
        ]
        if not alike:
            raise ModelError(
                f"not the network of {spec.name}: found no {wanted.name} ({wanted.kind} "
                f"{wanted.kernel}x{wanted.kernel}, stride {wanted.stride}, behind "
                f"{names[wanted.inputs[0]]})"
            )
        # Heads with as many channels each differ only in their names and places.
        layer = min(alike, key=lambda layer: layer.name != wanted.name)
        left.remove(layer)
        names[wanted.name] = layer.name
        layers.append(wanted if layer.conv is None else wanted.with_arrays(layer.conv))
    if left:
        some = ", ".join(layer.name for layer in left[:4])
        raise ModelError(f"not the network of {spec.name}: it also has {some}")
    return tuple(layers)


def _form(layer: Layer) -> tuple[object, ...]:
    """What a layer of the file must have in common with the one that it is."""
    return layer.kind, layer.relu, layer.kernel, layer.stride, layer.padding, layer.channels


class _Walk:
    """Reads the operators of a graph as layers; names are those of the file."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._tensors = tensors
        self._arrays: dict[str, NDArray[Any]] = {}
        self._uses = Counter(name for node in graph.node for name in node.input)
        if len(graph.input) != 1:
            raise ModelError(f"has {counted(len(graph.input), 'input')}; expected one picture")
        (picture,) = graph.input
        self._bytes = picture.type.tensor_type.elem_type == TensorProto.UINT8
        # Values of the graph to the layers that they come from.
        self._values = {picture.name: IMAGE}
        self._layers: dict[str, Layer] = {}
        for node in graph.node:
            self._visit(node)
        self.layers = list(self._layers.values())

    def _visit(self, node: onnx.NodeProto) -> None:
        if not node.output or self._folds(node):
            return
        known = [name in self._values for name in node.input]
        if not known or not known[0]:
            return
        read: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Conv": self._conv,
            "BatchNormalization": self._norm,
            "Relu": self._relu,
            "Add": self._add,
            "MaxPool": self._pool,
        }
        source = self._values[node.input[0]]
        if node.op_type in read:
            read[node.op_type](node)
        elif node.op_type in _PASSED_ON or (source == IMAGE and self._normalises(node)):
            self._values[node.output[0]] = source

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Computes what depends on constants alone: weights that are stored smaller."""
        if node.op_type not in ("Cast", "Mul") or not all(
            name in self._tensors or name in self._arrays for name in node.input
        ):
            return False
        inputs = [self._array(name) for name in node.input]
        if node.op_type == "Mul":
            result = inputs[0] * inputs[1]
        else:
            to = helper.tensor_dtype_to_np_dtype(_attributes(node)["to"])
            result = inputs[0].astype(to)
        self._arrays[node.output[0]] = result
        return True

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            if name not in self._tensors:
                raise ModelError(f"{name} is computed; expected a constant")
            self._arrays[name] = read_constant(self._tensors[name])
        return self._arrays[name]

    def _normalises(self, node: onnx.NodeProto) -> bool:
        """Whether it belongs to our normalisation of bytes; see `graph.normalise_bytes`."""
        if not self._bytes or node.op_type not in ("Cast", "Transpose", "Sub"):
            return False
        if node.op_type == "Sub":
            mean = self._array(node.input[1]).reshape(-1)
            if mean.shape != (3,) or not np.allclose(mean, np.array(MEAN) * 255, atol=1e-3):
                raise ModelError("normalises bytes with another mean than ours")
        return True

    def _new(self, node: onnx.NodeProto) -> str:
        name = node.name or node.output[0]
        if name in self._layers:
            raise ModelError(f"has two nodes called {name!r}")
        return name

    def _conv(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        kernel, stride, padding = _window(node, attributes)
        if attributes.get("group", 1) != 1 or set(attributes.get("dilations", [1])) != {1}:
            raise ModelError(f"{_shown(node)} has groups or dilations, which no layer of ours has")
        weight = self._array(node.input[1]).astype(np.float32)
        if weight.ndim != 4 or weight.shape[2:] != (kernel, kernel):
            raise ModelError(f"{_shown(node)} has a weight of shape {weight.shape}")
        source = self._values[node.input[0]]
        if source == IMAGE and self._bytes:
            scale = np.array(STD, np.float64).reshape(1, 3, 1, 1) * 255
            weight = (weight * scale).astype(np.float32)
        bias = (
            self._array(node.input[2]).astype(np.float32)
            if len(node.input) > 2
            else np.zeros(len(weight), np.float32)
        )
        self._put(node, Layer(
            self._new(node), CONV, (source,), kernel=kernel, stride=stride, padding=padding,
            channels=(weight.shape[0], weight.shape[1]), conv=Conv(weight, bias),
        ))  # fmt: skip

    def _norm(self, node: onnx.NodeProto) -> None:
        before = self._before(node)
        if before.conv is None or before.relu:
            raise ModelError(f"{_shown(node)}: expected a convolution before it")
        norm = [self._array(name) for name in node.input[1:5]]
        epsilon = _attributes(node).get("epsilon", 1e-5)
        conv = fold_batch_norm(before.conv.weight, before.conv.bias, norm, epsilon=epsilon)
        self._put(node, dataclasses.replace(before, conv=conv))

    def _relu(self, node: onnx.NodeProto) -> None:
        self._put(node, dataclasses.replace(self._before(node), relu=True))

    def _before(self, node: onnx.NodeProto) -> Layer:
        """The layer that an operator becomes a part of."""
        source = self._values[node.input[0]]
        if source == IMAGE or self._uses[node.input[0]] != 1:
            raise ModelError(f"{_shown(node)}: expected a layer before it that nothing else reads")
        return self._layers[source]

    def _add(self, node: onnx.NodeProto) -> None:
        if node.input[1] in self._values:
            inputs = tuple(self._values[name] for name in node.input)
            self._put(node, Layer(self._new(node), ADD, inputs))

    def _pool(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        kernel, stride, padding = _window(node, attributes)
        if attributes.get("ceil_mode", 0):
            raise ModelError(f"{_shown(node)} rounds its size up, which no layer of ours does")
        self._put(node, Layer(
            self._new(node), MAXPOOL, (self._values[node.input[0]],),
            kernel=kernel, stride=stride, padding=padding,
        ))  # fmt: skip

    def _put(self, node: onnx.NodeProto, layer: Layer) -> None:
        if node.output[0] in self._values or layer.name == IMAGE:
            raise ModelError(f"{_shown(node)}: its name or output is there twice")
        self._layers[layer.name] = layer
        self._values[node.output[0]] = layer.name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _window(node: onnx.NodeProto, attributes: dict[str, Any]) -> tuple[int, int, int]:
    """Kernel, stride and padding of a square window."""
    kernel = attributes.get("kernel_shape", [])
    stride = attributes.get("strides", [1, 1])
    padding = attributes.get("pads", [0] * 4)
    if (
        len(kernel) != 2
        or any(len(set(values)) != 1 for values in (kernel, stride, padding))
        or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        raise ModelError(f"{_shown(node)}: expected a square window with the same padding around")
    return kernel[0], stride[0], padding[0]


def _shown(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"
