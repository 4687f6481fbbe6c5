"""What ONNX graphs are built with; nodes are named after their layers
(``backbone.layer3.0.conv1``)."""

from __future__ import annotations

import dataclasses
import json
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
from ssd34.core.spec import ModelSpec
from ssd34.deploy.graph.layers import ADD, CONV, IMAGE, Conv, Layer
from ssd34.errors import OptionError
from ssd34.files.atomic import written_whole
from ssd34.runtime.onnxruntime_engine import onnxruntime, open_onnx
from ssd34.version import __version__

OLDEST = 10
"""The first with NonMaxSuppression."""


def find_ir_version(opset: int) -> int:
    """The file format of an opset, as in the published files (10: 5, 12: 7)."""
    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


def find_onnx_release(opset: int) -> str:
    """The first release of ONNX with an opset, such as ``"1.7"``; ``"unknown"`` to this one."""
    releases = (row[0] for row in helper.VERSION_TABLE if row[2] == opset)
    return ".".join(next(releases, "unknown").split(".")[:2])


def list_opsets() -> range:
    """From the oldest that the network needs to the newest that the installed onnx defines."""
    return range(OLDEST, onnx.defs.onnx_opset_version() + 1)


def find_newest_opset() -> int:
    """The newest that the installed onnx defines and the installed ONNX Runtime loads."""
    return next(opset for opset in reversed(list_opsets()) if _loads(opset))


def check_opset(opset: int) -> None:
    """Raise an OptionError where the opset is not one of `list_opsets`."""
    if opset not in list_opsets():
        raise OptionError(
            f"unknown opset {opset}; expected {OLDEST} to {list_opsets()[-1]}, the newest that "
            f"the installed onnx {onnx.__version__} defines"
        )


def _loads(opset: int) -> bool:
    """Whether ONNX Runtime loads the smallest file of an opset."""
    model = onnx.parser.parse_model(
        f'<ir_version: {find_ir_version(opset)}, opset_import: ["": {opset}]>'
        "smallest (float[1] x) => (float[1] y) { y = Relu(x) }"
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        open_onnx(model.SerializeToString(), options)
    except Exception:  # the library has no common base of its own
        return False
    return True


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

    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        *,
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node; returns its name, which is that of its output unless outputs are given."""
        outputs = [name] if outputs is None else outputs
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, once; returns its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add a constant of int64 values, once; returns its name."""
        return self.constant(name, np.array(values, np.int64))

    def slice(
        self, name: str, x: str, start: int, end: int, *, axis: int, step: int | None = None
    ) -> str:
        """Add a part of a tensor along an axis; returns its name."""
        bounds = {"start": start, "end": end, "axis": axis}
        if step is not None:
            bounds["step"] = step
        parts = [self.integers(f"{name}.{what}", value) for what, value in bounds.items()]
        return self.node("Slice", name, [x, *parts])

    def weight(self, name: str, value: NDArray[np.float32]) -> str:
        """Add a convolution's weight (O, I, K, K) in the builder's storage format.

        Smaller formats are turned into float32 by operators that ONNX Runtime computes once, when
        it loads the file: they cost nothing at run time.
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


def add_float_layer(builder: GraphBuilder, layer: Layer, inputs: Sequence[str]) -> str:
    """Add a layer in float32, its rectifier included; returns the name of its value."""
    if layer.kind == CONV:
        weight = builder.weight(f"{layer.name}.weight", layer.arrays.weight)
        bias = builder.constant(f"{layer.name}.bias", layer.arrays.bias)
        builder.node("Conv", layer.name, [*inputs, weight, bias], **layer.window)
    elif layer.kind == ADD:
        builder.node("Add", layer.name, inputs)
    else:
        builder.node("MaxPool", layer.name, inputs, **layer.window)
    return builder.node("Relu", f"{layer.name}.relu", [layer.name]) if layer.relu else layer.name


def add_flattened_head(builder: GraphBuilder, spec: ModelSpec, layer: Layer, value: str) -> None:
    """Add ``<layer>.flat``, a head's float32 `value` (N, boxes of a cell * channels, H, W) as (N, 4
    or channels, boxes)."""
    channels = 4 if layer.head == "loc" else spec.num_channels
    shape = builder.integers(f"heads.{layer.head}.shape", 0, channels, -1)
    builder.node("Reshape", f"{layer.name}.flat", [value, shape])


def normalise_bytes(builder: GraphBuilder, stem: Layer) -> tuple[str, Layer]:
    """Add what turns bytes (N, S, S, 3) into the first convolution's input; returns that, and the
    convolution. The mean is subtracted, so that the padding of zeros still means the mean colour;
    the division is folded into the weights."""
    values = builder.node("Cast", "input.float", [IMAGE], to=TensorProto.FLOAT)
    planes = add_planes(builder, values)
    mean = np.array(MEAN, np.float64).reshape(1, 3, 1, 1) * 255
    centred = builder.node(
        "Sub", "input.centred", [planes, builder.constant("input.mean", mean.astype(np.float32))]
    )
    scale = np.array(STD, np.float64).reshape(1, 3, 1, 1) * 255
    conv = Conv((stem.arrays.weight / scale).astype(np.float32), stem.arrays.bias)
    return centred, dataclasses.replace(stem, conv=conv)


def add_planes(builder: GraphBuilder, pixels: str) -> str:
    """Add (N, H, W, C) as (N, C, H, W); returns its name."""
    return builder.node("Transpose", "input.planes", [pixels], perm=[0, 3, 1, 2])


def finish_model(
    builder: GraphBuilder,
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    spec: ModelSpec,
    labels: LabelSet,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """The builder's nodes as an ONNX model, with spec and class names in its metadata."""
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
        ir_version=find_ir_version(builder.opset),
    )
    entries = {
        METADATA_SPEC: to_json(spec.to_dict()),
        METADATA_LABELS: to_json(labels.to_dict()),
        **(metadata or {}),
    }
    helper.set_model_props(model, entries)
    return model


def to_json(values: dict[str, Any]) -> str:
    """As a file's metadata hold it: short, and the same for the same values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Check a model and write it as an ONNX file, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
