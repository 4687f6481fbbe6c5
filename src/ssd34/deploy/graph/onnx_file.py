"""An ONNX file, read: whatever tool wrote it, its constants are found in one place."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ssd34.core import contract
from ssd34.core.contract import Port
from ssd34.core.external_data import check_weights_inside
from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.deploy.graph.builder import MAX_MODEL_BYTES
from ssd34.errors import ModelError
from ssd34.text import one_line

_KINDS = {
    "value_float": np.float32, "value_floats": np.float32,
    "value_int": np.int64, "value_ints": np.int64,
}  # fmt: skip
"""How a Constant may hold its value other than as a tensor, and what type that is."""


def read_model(path: Path) -> onnx.ModelProto:
    """An ONNX file, its graph tidied, see `tidy`. ModelError: missing, too large, broken, or with
    weights in other files. OSError: it cannot be read."""
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; expected an ONNX file, so check the path")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: too large, expected at most {MAX_MODEL_BYTES} bytes")
    check_weights_inside(path)
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own error, which onnx does not pass on
        reason = one_line(error, 120)
        raise ModelError(
            f"{path}: not an ONNX file ({reason}); if it was cut off, fetch or export it again"
        ) from None
    tidy(model)
    return model


def tidy(model: onnx.ModelProto) -> None:
    """Make every constant an initializer, no initializer an input, and put every node behind those
    that it reads: other tools' files have them otherwise."""
    graph = model.graph
    results = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None or node.output[0] in results:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    ordered = onnx.GraphProto(node=_sorted(kept)).node
    del graph.node[:]
    graph.node.extend(ordered)
    constants = {tensor.name for tensor in graph.initializer}
    for number in reversed(range(len(graph.input))):
        if graph.input[number].name in constants:
            del graph.input[number]


def _sorted(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each node behind those whose outputs it reads; as they are where they are so already, or go
    in a circle, which whoever loads the file refuses."""
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    read = {
        number: [makers[name] for name in _find_inputs(node) if name in makers]
        for number, node in enumerate(nodes)
    }
    if all(made < number for number, needed in read.items() for made in needed):
        return nodes
    try:
        return [nodes[number] for number in TopologicalSorter(read).static_order()]
    except CycleError:
        return nodes


def _find_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, itself or in its branches."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _find_inputs(inner)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node; None for other nodes, and for text, sparse and broken ones."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    if not (node.attribute and node.output):
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        copy: onnx.TensorProto = onnx.TensorProto.FromString(attribute.t.SerializeToString())
        return copy
    if attribute.name not in _KINDS:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    tensor: onnx.TensorProto = numpy_helper.from_array(np.array(value, _KINDS[attribute.name]))
    return tensor


def read_constant(tensor: onnx.TensorProto) -> NDArray[Any]:
    """A constant's values; ModelError: it is broken."""
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = one_line(error, 120)
        raise ModelError(f"the constant {tensor.name} is broken ({reason})") from None


def read_ports(graph: onnx.GraphProto) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a tidied graph."""
    return [_port(value) for value in graph.input], [_port(value) for value in graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, str(kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    element = names.get(tensor.elem_type, str(tensor.elem_type))  # types of a newer onnx
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        )
    return Port(value.name, f"tensor({element})", shape)


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """A file's own metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def read_identity(model: onnx.ModelProto) -> tuple[ModelSpec, LabelSet]:
    """See `ssd34.core.contract.identity`."""
    return contract.read_identity(read_metadata(model))
