"""An ONNX file as a `Network`: ours, with or without its tail, or one of the published float files.

The graph is walked from the picture on through the operators that the network consists of. What
comes behind the heads (reshaping, decoding, NMS) is left out. Foreign node names are replaced by
ours, which follow from the structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.contract import NOTE_INT8_STEPS, score_calibration
from ssd34.core.counted import counted
from ssd34.core.preprocess import MEAN, STD
from ssd34.core.spec import TRUNK_BLOCKS, TRUNK_STRIDES, ModelSpec
from ssd34.data.checkpoint import Checkpoint
from ssd34.deploy.export import ExportOptions, onnx_model
from ssd34.deploy.fold import Conv
from ssd34.deploy.graph import MAX_MODEL_BYTES
from ssd34.deploy.network import ADD, CONV, IMAGE, MAXPOOL, Layer, Network
from ssd34.deploy.ports import identity
from ssd34.deploy.ranges import Affine
from ssd34.deploy.tolerance import QUANTIZED
from ssd34.errors import CheckpointError, ModelError

_PASSED_ON = frozenset({"Identity", "Dropout"})


def network_of(checkpoint: Checkpoint) -> Network:
    """A checkpoint's network, its score calibration folded into the biases.

    Raises:
        CheckpointError: an array is missing, or the notes of quantization-aware training are
            broken.
        ModelError: the weights are not finite.
    """
    network = network_of_model(onnx_model(checkpoint, ExportOptions(policy=None, batch=None)))
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
            f"the checkpoint's {NOTE_INT8_STEPS} are not those of its layers; train it anew"
        )
    if network.score_calibration is not None:
        offset = network.score_calibration.background_offset
        trained |= {name: trained[name].widened(offset) for name in network.conf}
    return dataclasses.replace(network, trained=trained)


def read_network(path: Path) -> Network:
    """The float network in an ONNX file.

    Raises:
        ModelError: missing, broken, already quantized, or not a network of this family.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; expected an ONNX file")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: too large, expected at most {MAX_MODEL_BYTES} bytes")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # protobuf's own error, which onnx does not pass on
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path}: not an ONNX file ({reason})") from None
    try:
        return network_of_model(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def network_of_model(model: onnx.ModelProto) -> Network:
    """The float network in an ONNX model.

    Raises:
        ModelError: already quantized, or not a network of this family.
    """
    for node in model.graph.node:
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            raise ModelError(
                f"is quantized already (it has {node.op_type}); give the float file instead, "
                "such as default-float for default"
            )
    spec, labels = identity(model)
    try:
        named = _Names(spec, _Walk(model).layers)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"not the network of {spec.name}, or broken ({reason})") from None
    for layer in named.layers:
        if layer.conv is not None and not all(
            np.isfinite(a).all() for a in (layer.conv.weight, layer.conv.bias)
        ):
            raise ModelError(f"the weights of {layer.name} are not finite; train or export it anew")
    return Network(
        spec,
        labels,
        tuple(named.layers),
        tuple(named.loc),
        tuple(named.conf),
        score_calibration=score_calibration({e.key: e.value for e in model.metadata_props}),
    )


class _Walk:
    """Reads the operators of a graph as layers; names are those of the file."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                tensors[node.output[0]] = node.attribute[0].t
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors.values()):
            raise ModelError("keeps weights in other files; expected them inside")
        self._tensors = tensors
        self._arrays: dict[str, NDArray[Any]] = {}
        self._uses: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self._uses[name] = self._uses.get(name, 0) + 1
        pictures = [value for value in graph.input if value.name not in tensors]
        if len(pictures) != 1:
            raise ModelError(f"has {counted(len(pictures), 'input')}; expected one picture")
        self._bytes = pictures[0].type.tensor_type.elem_type == TensorProto.UINT8
        # Values of the graph to the layers that they come from.
        self._values = {pictures[0].name: IMAGE}
        self._layers: dict[str, Layer] = {}
        for node in graph.node:
            self._visit(node)
        self.layers = list(self._layers.values())

    def _visit(self, node: onnx.NodeProto) -> None:
        if not node.output or node.output[0] in self._tensors:
            return
        if self._folds(node):
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
            try:
                self._arrays[name] = numpy_helper.to_array(self._tensors[name])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ModelError(f"the constant {name} is broken ({error})") from None
        return self._arrays[name]

    def _normalises(self, node: onnx.NodeProto) -> bool:
        """Whether it belongs to our normalisation of bytes; see `graph.network_graph`."""
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
            self._new(node), CONV, (source,), conv=Conv(weight, bias),
            kernel=kernel, stride=stride, padding=padding,
        ))  # fmt: skip

    def _norm(self, node: onnx.NodeProto) -> None:
        before = self._before(node)
        if before.conv is None or before.relu:
            raise ModelError(f"{_shown(node)}: expected a convolution before it")
        gamma, beta, mean, variance = (
            self._array(name).astype(np.float64) for name in node.input[1:5]
        )
        scale = gamma / np.sqrt(variance + _attributes(node).get("epsilon", 1e-5))
        weight = (before.conv.weight * scale[:, None, None, None]).astype(np.float32)
        bias = (beta + (before.conv.bias - mean) * scale).astype(np.float32)
        self._put(node, dataclasses.replace(before, conv=Conv(weight, bias)))

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


class _Names:
    """Walks layers as the spec says they hang together, and calls them by our names."""

    def __init__(self, spec: ModelSpec, layers: list[Layer]) -> None:
        self._spec = spec
        self._found = layers
        self._readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for name in set(layer.inputs):
                self._readers.setdefault(name, []).append(layer)
        self.layers: list[Layer] = []
        self._renamed = {IMAGE: IMAGE}
        self._channels = {IMAGE: 3}
        self.loc: list[str] = []
        self.conf: list[str] = []
        features = self._trunk()
        for level, channels in enumerate(spec.level_channels):
            if level > 0:
                block = spec.extra_blocks[level - 1]
                name = f"extras.{level - 1}.conv"
                features = self._take(
                    f"{name}1", features, CONV, (1, 1, 0), block.middle_channels, relu=True
                )
                window = (3, block.stride, block.padding)
                features = self._take(f"{name}2", features, CONV, window, channels, relu=True)
            boxes = spec.boxes_per_cell[level]
            window = (3, spec.head_stride, 1)
            for kind, each, into in (("loc", 4, self.loc), ("conf", spec.num_channels, self.conf)):
                name = f"heads.{kind}.{level}"
                self._take(name, features, CONV, window, boxes * each, relu=False, head=True)
                into.append(name)
        left = [layer.name for layer in layers if layer.name not in self._renamed]
        if left:
            raise ModelError(f"not the network of {spec.name}: it also has {', '.join(left[:4])}")

    def _trunk(self) -> str:
        x = self._take("trunk.conv1", IMAGE, CONV, (7, 2, 3), 64, relu=True)
        x = self._take("trunk.maxpool", x, MAXPOOL, (3, 2, 1), None, relu=False)
        for stage, blocks in enumerate(TRUNK_BLOCKS[self._spec.trunk], start=1):
            channels = (64, 128, 256)[stage - 1]
            for number in range(blocks):
                block = f"trunk.layer{stage}.{number}"
                stride = TRUNK_STRIDES[stage - 1] if number == 0 else 1
                y = self._take(f"{block}.conv1", x, CONV, (3, stride, 1), channels, relu=True)
                y = self._take(f"{block}.conv2", y, CONV, (3, 1, 1), channels, relu=False)
                if not any(layer.kind == ADD for layer in self._readers.get(x, ())):
                    window = (1, stride, 0)
                    x = self._take(f"{block}.downsample", x, CONV, window, channels, relu=False)
                x = self._take(f"{block}.add", y, ADD, (1, 1, 0), None, relu=True, other=x)
        return x

    def _take(
        self,
        name: str,
        source: str,
        kind: str,
        window: tuple[int, int, int],
        channels: int | None,
        *,
        relu: bool,
        head: bool = False,
        other: str | None = None,
    ) -> str:
        """Find the layer that reads `source` and looks as it should; returns its name in the file.

        `source`, `other` and the result are names in the file, `name` is ours.
        """

        def fits(layer: Layer) -> bool:
            return (
                layer.name not in self._renamed
                and layer.kind == kind
                and (layer.kernel, layer.stride, layer.padding) == window
                and layer.relu == relu
                and (
                    layer.conv is None
                    or layer.conv.weight.shape[:2] == (channels, self._channels[source])
                )
                and (head == (layer.name not in self._readers))
                and (other is None or set(layer.inputs) == {source, other})
            )

        matching = [layer for layer in self._readers.get(source, []) if fits(layer)]
        # Heads with as many channels each differ only in their names and places.
        matching.sort(key=lambda layer: layer.name != name)
        if not matching:
            raise ModelError(
                f"not the network of {self._spec.name}: found no {name} "
                f"({kind} {window[0]}x{window[0]}, stride {window[1]}, behind {source})"
            )
        layer = matching[0]
        self._renamed[layer.name] = name
        self._channels[layer.name] = channels or self._channels[source]
        inputs = tuple(self._renamed[i] for i in layer.inputs)
        self.layers.append(dataclasses.replace(layer, name=name, inputs=inputs))
        return layer.name
