"""A graph's inputs and outputs, and where they differ from what a manifest states."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from ssd34.core import contract
from ssd34.core.contract import Port
from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec


def read_ports(graph: onnx.GraphProto) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a tidied graph."""
    return [_port(value) for value in graph.input], [_port(value) for value in graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, str(kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    element = TensorProto.DataType.Name(tensor.elem_type).lower()
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


def find_differences(what: str, ports: Sequence[Port], stated: Sequence[Port]) -> list[str]:
    """Where the ports differ from those that a manifest states. Names of free dimensions do not
    count.

    Args:
        what: ``"input"`` or ``"output"``.
        ports: of the graph.
        stated: of the manifest.
    """
    names, others = [p.name for p in ports], [p.name for p in stated]
    if names != others:
        return [f"{what}s {', '.join(names)}: the manifest says {', '.join(others) or 'none'}"]
    return [
        f"{what} {port}: the manifest says {other.form}"
        for port, other in zip(ports, stated, strict=True)
        if port.type != other.type or port.sizes != other.sizes
    ]
