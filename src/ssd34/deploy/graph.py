"""The network as an ONNX graph, built from the spec and the arrays.

Nothing is traced: one source writes every opset, nodes are named after the module they come
from (``trunk.layer3.0.conv1``), and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.contract import METADATA_LABELS, METADATA_SPEC
from ssd34.core.labels import LabelSet
from ssd34.core.preprocess import MEAN, STD
from ssd34.core.spec import TRUNK_BLOCKS, TRUNK_STRIDES, ModelSpec
from ssd34.data.atomic import written_whole
from ssd34.data.checkpoint import Checkpoint
from ssd34.deploy.fold import Conv, folded
from ssd34.deploy.opsets import check_opset, ir_version
from ssd34.errors import OptionError
from ssd34.version import __version__

MAX_MODEL_BYTES = 2 * 2**30 - 1
"""Of an ONNX file: what fits into a protobuf message."""
WEIGHT_FORMATS = ("float32", "float16", "int8")


class GraphBuilder:
    """Collects nodes and constants under readable names."""

    def __init__(self, *, opset: int, weight_format: str = "float32") -> None:
        check_opset(opset)
        if weight_format not in WEIGHT_FORMATS:
            raise OptionError(
                f"unknown weight format {weight_format!r}; expected one of "
                f"{', '.join(WEIGHT_FORMATS)}"
            )
        self.opset = opset
        self.weight_format = weight_format
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output, called like the node; returns that name."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def nodes_out(
        self, op: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node with several outputs."""
        self.nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)
        )

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, once; returns its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def weight(self, name: str, value: NDArray[np.float32]) -> str:
        """Add a convolution's weight in the builder's storage format.

        The smaller formats are turned into float32 by operators that ONNX Runtime computes once,
        when it loads the file: they save bytes on disk and cost nothing at run time.
        """
        if self.weight_format == "float32":
            return self.constant(name, value)
        if self.weight_format == "float16":
            stored = self.constant(f"{name}.float16", value.astype(np.float16))
            return self.node("Cast", name, [stored], to=TensorProto.FLOAT)
        largest = np.abs(value).max(axis=(1, 2, 3), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        steps = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
        stored = self.constant(f"{name}.int8", steps)
        wide = self.node("Cast", f"{name}.wide", [stored], to=TensorProto.FLOAT)
        return self.node("Mul", name, [wide, self.constant(f"{name}.scale", scale)])

    def conv(self, name: str, x: str, conv: Conv, *, stride: int, padding: int) -> str:
        """A square convolution with bias."""
        weight = self.weight(f"{name}.weight", conv.weight)
        bias = self.constant(f"{name}.bias", conv.bias)
        kernel = conv.weight.shape[-1]
        return self.node(
            "Conv", name, [x, weight, bias],
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[padding] * 4,
        )  # fmt: skip

    def relu(self, x: str) -> str:
        """A rectifier named after its input."""
        return self.node("Relu", f"{x}.relu", [x])


def network_graph(
    builder: GraphBuilder, checkpoint: Checkpoint, *, image: str, bytes_input: bool = False
) -> tuple[list[str], list[str]]:
    """Add the whole network to a builder.

    Args:
        builder: receives the nodes.
        checkpoint: spec and weights.
        image: name of the input: (N, 3, S, S) float32, normalised.
        bytes_input: the input is (N, S, S, 3) uint8 instead; the graph normalises it.

    Returns:
        Names of each level's loc (N, 4, boxes) and conf (N, channels, boxes).
    """
    spec, weights = checkpoint.spec, checkpoint.weights
    stem = folded(weights, "trunk.conv1", "trunk.bn1")
    if bytes_input:
        image, stem = normalised(builder, image, stem)
    features = _trunk(builder, checkpoint, image, stem)
    locs: list[str] = []
    confs: list[str] = []
    for level in range(len(spec.steps)):
        if level > 0:
            block = spec.extra_blocks[level - 1]
            for part, (stride, padding) in enumerate(((1, 0), (block.stride, block.padding)), 1):
                name = f"extras.{level - 1}.conv{part}"
                norm = f"extras.{level - 1}.norm{part}" if spec.head_norm else None
                conv = folded(weights, name, norm)
                features = builder.relu(
                    builder.conv(name, features, conv, stride=stride, padding=padding)
                )
        for kind, channels, outputs in (("loc", 4, locs), ("conf", spec.num_channels, confs)):
            name = f"heads.{kind}.{level}"
            raw = builder.conv(
                name, features, folded(weights, name, None), stride=spec.head_stride, padding=1
            )
            shape = builder.constant(f"heads.{kind}.shape", np.array([0, channels, -1], np.int64))
            outputs.append(builder.node("Reshape", f"{name}.flat", [raw, shape]))
    return locs, confs


def normalised(builder: GraphBuilder, image: str, stem: Conv) -> tuple[str, Conv]:
    """Bytes to the stem's input, and the stem that takes it.

    The mean is subtracted, so that the stem's padding of zeros still means the mean colour; the
    division is folded into the stem's weights.
    """
    values = builder.node("Cast", "input.float", [image], to=TensorProto.FLOAT)
    planes = builder.node("Transpose", "input.planes", [values], perm=[0, 3, 1, 2])
    mean = np.array(MEAN, np.float64).reshape(1, 3, 1, 1) * 255
    centred = builder.node(
        "Sub", "input.centred", [planes, builder.constant("input.mean", mean.astype(np.float32))]
    )
    scale = np.array(STD, np.float64).reshape(1, 3, 1, 1) * 255
    return centred, Conv((stem.weight / scale).astype(np.float32), stem.bias)


def _trunk(builder: GraphBuilder, checkpoint: Checkpoint, image: str, stem: Conv) -> str:
    weights = checkpoint.weights
    x = builder.relu(builder.conv("trunk.conv1", image, stem, stride=2, padding=3))
    x = builder.node(
        "MaxPool", "trunk.maxpool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    for stage, blocks in enumerate(TRUNK_BLOCKS[checkpoint.spec.trunk], start=1):
        for number in range(blocks):
            block = f"trunk.layer{stage}.{number}"
            stride = TRUNK_STRIDES[stage - 1] if number == 0 else 1
            conv1 = folded(weights, f"{block}.conv1", f"{block}.bn1")
            conv2 = folded(weights, f"{block}.conv2", f"{block}.bn2")
            y = builder.relu(builder.conv(f"{block}.conv1", x, conv1, stride=stride, padding=1))
            y = builder.conv(f"{block}.conv2", y, conv2, stride=1, padding=1)
            if f"{block}.downsample.0.weight" in weights:
                shortcut = folded(weights, f"{block}.downsample.0", f"{block}.downsample.1")
                x = builder.conv(f"{block}.downsample", x, shortcut, stride=stride, padding=0)
            x = builder.relu(builder.node("Add", f"{block}.add", [y, x]))
    return x


def finished_model(
    builder: GraphBuilder,
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    spec: ModelSpec,
    labels: LabelSet,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """The builder's nodes as a checked ONNX model, with spec and class names in its metadata."""
    graph = helper.make_graph(
        builder.nodes, spec.name, list(inputs), list(outputs), list(builder.constants.values())
    )
    domains = sorted({node.domain for node in builder.nodes if node.domain})
    model = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", builder.opset),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        producer_name="ssd34",
        producer_version=__version__,
        ir_version=ir_version(builder.opset),
    )
    entries = {
        METADATA_SPEC: _json(spec.to_dict()),
        METADATA_LABELS: _json(labels.to_dict()),
        **(metadata or {}),
    }
    helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    return model


def _json(values: dict[str, Any]) -> str:
    import json

    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write an ONNX file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
