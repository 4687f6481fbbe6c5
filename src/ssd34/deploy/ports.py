"""A graph's inputs and outputs, and what a detector's have to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ssd34.core import contract
from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.errors import ModelError


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: its name.
        type: as ONNX Runtime writes it, for example ``"tensor(float)"``.
        shape: a number for a fixed dimension, a name or None for a free one; None as a whole: not
            even the number of dimensions is fixed.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        return f"{self.name} {self.form}"

    @property
    def form(self) -> str:
        """Type and shape, for messages."""
        if self.shape is None:
            return f"{self.type} of any shape"
        return f"{self.type} [{', '.join('?' if s is None else str(s) for s in self.shape)}]"


def graph_ports(graph: onnx.GraphProto) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a graph. Constants that old files list as inputs are left out."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_port(value) for value in graph.input if value.name not in constants]
    return inputs, [_port(value) for value in graph.output]


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


def fits(shape: Sequence[int | str | None], form: Sequence[int | None]) -> bool:
    """Whether a shape has the fixed dimensions of a form, in which None is anything."""
    return len(shape) == len(form) and all(
        wanted in (None, size) for size, wanted in zip(shape, form, strict=True)
    )


def identity(model: onnx.ModelProto) -> tuple[ModelSpec, LabelSet]:
    """Spec and classes from the metadata; without it those of the published files.

    Raises:
        ModelError: the metadata is broken, or spec and classes do not fit each other.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return contract.identity(metadata) or contract.PUBLISHED


def contract_problems(model: onnx.ModelProto) -> list[str]:
    """What keeps inputs and outputs from being those of a detector with the file's metadata."""
    try:
        spec, _ = identity(model)
    except ModelError as error:
        return [str(error)]
    inputs, outputs = graph_ports(model.graph)
    side = spec.image_size
    problems = []
    forms: dict[str, tuple[int | None, ...]] = {
        "tensor(float)": (None, 3, side, side), "tensor(uint8)": (None, side, side, 3),
    }  # fmt: skip
    image = inputs[0] if len(inputs) == 1 else None
    if image is None or image.type not in forms or not fits(image.shape or (), forms[image.type]):
        got = ", ".join(map(str, inputs)) or "none"
        problems.append(
            f"input {got}: expected one of tensor(float) [N, 3, {side}, {side}] or tensor(uint8) "
            f"[N, {side}, {side}, 3], as the metadata of {spec.name} says"
        )
    detections: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "bboxes": ("tensor(float)", (None, None, 4)),
        "labels": ("tensor(int64)", (None, None)),
        "scores": ("tensor(float)", (None, None)),
    }
    raw: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "loc": ("tensor(float)", (None, 4, spec.num_default_boxes)),
        "conf": ("tensor(float)", (None, spec.num_channels, spec.num_default_boxes)),
    }
    by_name = {port.name: port for port in outputs}
    expected = raw if set(raw) <= set(by_name) else detections
    if not set(expected) <= set(by_name):
        got = ", ".join(by_name) or "none"
        return [*problems, f"outputs {got}: expected bboxes, labels, scores or loc, conf"]
    for name, (kind, form) in expected.items():
        port = by_name[name]
        if port.type != kind or not fits(port.shape or (), form):
            problems.append(
                f"output {port}: expected {Port('', kind, form).form}, as the metadata of "
                f"{spec.name} says"
            )
    return problems


def differences(what: str, ports: Sequence[Port], stated: Sequence[Port]) -> list[str]:
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
        if port.type != other.type or _fixed(port) != _fixed(other)
    ]


def _fixed(port: Port) -> list[int | None] | None:
    if port.shape is None:
        return None
    return [size if isinstance(size, int) else None for size in port.shape]
