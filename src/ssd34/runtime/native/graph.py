"""An int8 file cut into three: what ONNX Runtime does before, convolutions for us, and the rest."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssd34.runtime.native.convolution import Addition, Convolution, rounded_up
from ssd34.runtime.native.kernels import CHANNELS
from ssd34.runtime.onnxruntime_engine import OnnxRuntimeEngine, onnxruntime

TURNED = ".pixels"
"""What a value is called where its channels are last: (N, H, W, C)."""

Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Parts:
    """A file in three parts.

    Attributes:
        before: from the picture to `entry`, whose channels are last there.
        convolutions: in the order in which they are computed.
        entry: the value that the first one reads.
        exits: the values that `after` reads, each to its number of channels; there they have
            their channels last, and as many as a multiple of 32.
        after: from them to the file's outputs.
    """

    before: onnx.ModelProto
    convolutions: tuple[Convolution, ...]
    entry: str
    exits: dict[str, int]
    after: onnx.ModelProto


def optimize(path: Path) -> tuple[OnnxRuntimeEngine, onnx.ModelProto]:
    """The file in ONNX Runtime and as that computes it: both forms of int8 files become
    QLinearConv and QLinearAdd.

    Raises:
        ModelError: broken, or with operators that ONNX Runtime does not have.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4  # it warns that such a file belongs to this machine
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        engine = OnnxRuntimeEngine(path, options)
        return engine, onnx.load(options.optimized_model_filepath)


def cut(model: onnx.ModelProto) -> Parts | None:
    """Cut an optimized file; None: it has no convolutions that can be computed here."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(port.name for port in graph.output)
    entry, ours = None, dict[str, Convolution]()
    for node in graph.node:
        if node.op_type == "QLinearConv":
            conv = _read_convolution(node, constants)
            if conv is None or (conv.weight.shape[1] % CHANNELS and conv.source not in ours):
                continue
            entry = entry or conv.source
            if conv.source == entry or conv.source in ours:
                ours[conv.target] = conv
        elif node.op_type == "QLinearAdd":
            first, second = node.input[0], node.input[3]
            known = second == entry or second in ours
            if first in ours and known and uses[first] == 1 and ours[first].addition is None:
                addition = _read_addition(node, constants)
                if addition is not None:
                    conv = dataclasses.replace(
                        ours.pop(first), target=node.output[0], addition=addition
                    )
                    ours[conv.target] = conv
    if entry is None:
        return None
    ends = [port.name for port in graph.output]
    after = _leading_to(graph.node, ends, stop={entry, *ours})
    read = [name for node in after for name in node.input] + ends
    exits = {name: len(conv.weight) for name, conv in ours.items() if name in read}
    if not exits:
        return None
    before = _leading_to(graph.node, [entry], stop=set())
    turned = helper.make_node("Transpose", [entry], [entry + TURNED], perm=[0, 2, 3, 1])
    # Something that is not ours may read the entry, too.
    outputs = [entry + TURNED, *([entry] if entry in read else [])]
    return Parts(
        before=_model(model, [*before, turned], [], [_port(name, None) for name in outputs]),
        convolutions=tuple(_needed(ours, exits)),
        entry=entry,
        exits=exits,
        after=_after(model, after, exits, entry if entry in read else None),
    )


def _needed(ours: Mapping[str, Convolution], exits: Iterable[str]) -> list[Convolution]:
    """Those that the exits depend on, in order."""
    needed = set(exits)
    kept = []
    for conv in reversed(list(ours.values())):
        if conv.target in needed:
            needed.add(conv.source)
            if conv.addition is not None:
                needed.add(conv.addition.residual)
            kept.append(conv)
    return kept[::-1]


def _read_convolution(node: onnx.NodeProto, constants: Constants) -> Convolution | None:
    """A QLinearConv; None: of a kind that there are no kernels for."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    names = [*node.input, ""][:9]
    if any(name and name not in constants for name in names[1:]):
        return None
    _, x_scale, x_zero, weight, w_scale, w_zero, scale, zero = (
        constants.get(name, np.zeros(0)) for name in names[:8]
    )
    if weight.dtype != np.int8 or weight.ndim != 4 or w_zero.any():
        return None
    if any(one.size != 1 for one in (x_scale, x_zero, scale, zero)):
        return None
    if x_zero.dtype != np.uint8 or zero.dtype != np.uint8:
        return None
    kernel, strides = set(weight.shape[2:]), set(attributes.get("strides", [1]))
    plain = (
        attributes.get("group", 1) == 1
        and set(attributes.get("dilations", [1])) == {1}
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    if not plain or len(kernel) != 1 or len(strides) != 1 or min(strides) < 1:
        return None
    outputs = len(weight)
    bias = constants[names[8]] if names[8] else np.zeros(outputs, np.int32)
    if bias.shape != (outputs,) or bias.dtype != np.int32 or w_scale.size not in (1, outputs):
        return None
    factor = (np.float32(x_scale.item()) * w_scale.astype(np.float32)) / np.float32(scale.item())
    return Convolution(
        name=node.name,
        source=node.input[0],
        target=node.output[0],
        weight=weight,
        bias=bias,
        scale=np.broadcast_to(factor.reshape(-1), outputs).astype(np.float32),
        source_zero=int(x_zero.item()),
        target_zero=int(zero.item()),
        stride=strides.pop(),
        pads=tuple(attributes.get("pads", [0] * 4)),
    )


def _read_addition(node: onnx.NodeProto, constants: Constants) -> Addition | None:
    """What a QLinearAdd adds to its first input; None where its steps are no constants."""
    numbers = [name for place, name in enumerate(node.input) if place not in (0, 3)]
    if any(name not in constants or constants[name].size != 1 for name in numbers):
        return None
    a, a_zero, b, b_zero, c, c_zero = (constants[name].item() for name in numbers)
    own, other = np.float32(a) / np.float32(c), np.float32(b) / np.float32(c)
    # fma(own, a_zero, other * b_zero): one rounding.
    inner = np.float32(float(own) * a_zero + float(other * np.float32(b_zero)))
    return Addition(node.input[3], own, other, np.float32(c_zero) - inner)


def _after(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], exits: Mapping[str, int], entry: str | None
) -> onnx.ModelProto:
    """The last part: each exit is turned and freed of the channels that only fill up."""
    inputs, added, numbers = [], [], []
    for name, channels in exits.items():
        filled = rounded_up(channels, CHANNELS)
        inputs.append(_port(name + TURNED, [None, None, None, filled]))
        bounds = [f"{name}.from", f"{name}.to", f"{name}.axis"]
        for bound, value in zip(bounds, (0, channels, 1), strict=True):
            numbers.append(numpy_helper.from_array(np.array([value]), bound))
        turned = f"{name}.filled"
        added += [
            helper.make_node("Transpose", [name + TURNED], [turned], perm=[0, 3, 1, 2]),
            helper.make_node("Slice", [turned, *bounds], [name]),
        ]
    if entry is not None:
        inputs.append(_port(entry, [None] * 4))
    after = _model(model, [*added, *nodes], inputs, list(model.graph.output))
    after.graph.initializer.extend(numbers)
    return after


def _port(name: str, shape: Sequence[int | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, shape)


def _model(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A model of some nodes, with those of the file's own inputs and constants that they read."""
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        [port for port in model.graph.input if port.name in read] + inputs,
        outputs,
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _leading_to(
    nodes: Iterable[onnx.NodeProto], names: Iterable[str], *, stop: set[str]
) -> list[onnx.NodeProto]:
    """Those of the sorted nodes that the names depend on, without what makes a value of `stop`."""
    needed = set(names) - stop
    kept = []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            needed.update(set(node.input) - stop)
            kept.append(node)
    return kept[::-1]
