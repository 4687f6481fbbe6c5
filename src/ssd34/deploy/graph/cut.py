"""A file with the NMS in it as one that ends at raw outputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

from ssd34.core.contract import RAW_OUTPUTS, TAIL_INPUTS
from ssd34.deploy.graph.ports import identity
from ssd34.errors import ModelError


def without_tail(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network of a model that was exported with a tail, with the outputs loc (N, 4, A) and
    conf (N, channels, A), float32; the model itself is left alone.

    Raises:
        ModelError: the NMS in the file is not ours, so it cannot be cut off.
    """
    known = {name for node in model.graph.node for name in node.output}
    if not known.issuperset(TAIL_INPUTS):
        raise ModelError(
            "the NMS in the file is not as ssd34 export writes it, so the network's raw outputs "
            "are not known; export the checkpoint with --tail none"
        )
    spec, _ = identity(model)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    size = batch.dim_value if batch.HasField("dim_value") else batch.dim_param or None
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, c, spec.num_default_boxes])
        for name, c in zip(RAW_OUTPUTS, (4, spec.num_channels), strict=True)
    ]
    renamed = [  # in a file that computes in float16 the inner two are float16
        helper.make_node("Cast", [inner], [raw], name=raw, to=TensorProto.FLOAT)
        for raw, inner in zip(RAW_OUTPUTS, TAIL_INPUTS, strict=True)
    ]
    kept = _leading_to([*model.graph.node, *renamed], RAW_OUTPUTS)
    needed = {name for node in kept for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    cut.graph.CopyFrom(
        helper.make_graph(kept, model.graph.name, model.graph.input, outputs, constants)
    )
    return cut


def _leading_to(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the sorted nodes that the outputs depend on."""
    needed = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
