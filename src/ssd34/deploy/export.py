"""A checkpoint as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ssd34.core.postprocess import ZOO, Policy
from ssd34.data.checkpoint import Checkpoint
from ssd34.deploy.graph import GraphBuilder, finished_model, network_graph
from ssd34.deploy.tail import add_tail


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the file should be.

    Attributes:
        opset: version of the operators.
        policy: the tail's policy; None ends the graph at raw ``loc`` and ``conf``, which may
            then be run with any number of pictures at once.
        weight_format: how weights are stored: float32, float16, or int8 with one scale per
            output channel. They are computed with in float32 all the same.
    """

    opset: int = 12
    policy: Policy | None = ZOO
    weight_format: str = "float32"


def onnx_model(checkpoint: Checkpoint, options: ExportOptions) -> onnx.ModelProto:
    """Build the ONNX model of a checkpoint.

    Input ``image`` (1, 3, S, S) float32. Outputs with a policy: ``bboxes`` (1, D, 4),
    ``labels`` (1, D), ``scores`` (1, D); without: ``loc`` (N, 4, A), ``conf`` (N, channels, A).

    Raises:
        OptionError: an option is outside what is allowed.
        CheckpointError: an array is missing.
    """
    spec = checkpoint.spec
    raw = options.policy is None
    builder = GraphBuilder(opset=options.opset, weight_format=options.weight_format)
    locs, confs = network_graph(builder, checkpoint, image="image")
    loc_name, conf_name = ("loc", "conf") if raw else ("tail.loc", "tail.conf")
    loc = builder.node("Concat", loc_name, locs, axis=2)
    conf = builder.node("Concat", conf_name, confs, axis=2)
    batch: int | str = "batch" if raw else 1
    side = spec.image_size
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
    if options.policy is None:
        shapes = {
            "loc": (TensorProto.FLOAT, [batch, 4, spec.num_default_boxes]),
            "conf": (TensorProto.FLOAT, [batch, spec.num_channels, spec.num_default_boxes]),
        }
    else:
        add_tail(builder, loc=loc, conf=conf, spec=spec, policy=options.policy)
        shapes = {
            "bboxes": (TensorProto.FLOAT, [1, "nbox", 4]),
            "labels": (TensorProto.INT64, [1, "nbox"]),
            "scores": (TensorProto.FLOAT, [1, "nbox"]),
        }
    outputs = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in shapes.items()]
    return finished_model(
        builder, inputs=[image], outputs=outputs, spec=spec, labels=checkpoint.labels
    )
