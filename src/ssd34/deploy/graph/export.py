"""A checkpoint, or a network read from another file, as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ssd34.core.contract import METADATA_SCORES, RAW_OUTPUTS, TAIL_INPUTS
from ssd34.core.postprocess import ZOO, Policy
from ssd34.deploy.graph.builder import (
    GraphBuilder,
    add_flattened_head,
    add_float_layer,
    finish_model,
    normalise_bytes,
)
from ssd34.deploy.graph.layers import IMAGE, Network, make_network
from ssd34.deploy.graph.tail import add_tail, count_most_detections
from ssd34.errors import OptionError
from ssd34.files.checkpoint import Checkpoint

IMAGE_INPUTS = ("float32", "uint8")
_MOST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the file should be.

    Attributes:
        opset: version of the operators.
        policy: the tail's policy; None ends the graph at raw ``loc`` and ``conf``.
        batch: pictures at once; None: any number. With a tail and a batch other than 1 every
            picture gets the policy's largest number of detections, those beyond what was found
            with score and label 0.
        image_input: ``"float32"``: (N, 3, S, S), normalised, as published; ``"uint8"``:
            (N, S, S, 3) RGB bytes, normalised in the graph.
        weight_format: how weights are stored: float32, float16, or int8 with one scale per
            output channel. They are computed with in float32 all the same.
    """

    opset: int = 12
    policy: Policy | None = ZOO
    batch: int | None = 1
    image_input: str = "float32"
    weight_format: str = "float32"

    def __post_init__(self) -> None:
        if self.policy and not self.policy.in_graph:
            raise OptionError(
                f"the policy {self.policy.name!r} cannot be expressed with ONNX's "
                "NonMaxSuppression; export with --policy zoo, or with --tail none and apply it at "
                "run time"
            )
        if self.batch is not None and not 1 <= self.batch <= _MOST:
            raise OptionError(f"expected a batch from 1 to {_MOST}, or dynamic, got {self.batch}")
        if self.image_input not in IMAGE_INPUTS:
            raise OptionError(
                f"unknown input {self.image_input!r}; expected one of {', '.join(IMAGE_INPUTS)}"
            )


def make_onnx_model(checkpoint: Checkpoint, options: ExportOptions) -> onnx.ModelProto:
    """Build the ONNX model of a checkpoint, its score calibration folded into the biases.

    Input ``image``. Outputs with a policy: ``bboxes`` (N, D, 4) float32 xyxy in fractions of the
    picture, ``labels`` (N, D) int64, ``scores`` (N, D) float32, best first; without: ``loc`` (N, 4,
    A) and ``conf`` (N, channels, A), float32.

    Raises:
        OptionError: an option is outside what is allowed.
        CheckpointError, ModelError: an array is missing, misshapen or not finite.
    """
    return make_network_model(make_network(checkpoint), options)


def make_network_model(network: Network, options: ExportOptions) -> onnx.ModelProto:
    """`make_onnx_model` of a network."""
    builder = GraphBuilder(opset=options.opset, weight_format=options.weight_format)
    values = {IMAGE: IMAGE}
    for layer in network.layers:
        if IMAGE in layer.inputs and options.image_input == "uint8":
            values[IMAGE], layer = normalise_bytes(builder, layer)
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = add_float_layer(builder, layer, inputs)
        if layer.head is not None:
            add_flattened_head(builder, network.spec, layer, values[layer.name])
    return finish_with_outputs(builder, network, options)


def finish_with_outputs(
    builder: GraphBuilder,
    network: Network,
    options: ExportOptions,
    *,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A builder's network, which reads ``image`` and has flattened heads, with the outputs that the
    options ask for; `metadata`: entries beside spec, classes and score calibration."""
    spec = network.spec
    loc, conf = (
        builder.node("Concat", output, [f"{name}.flat" for name in heads], axis=2)
        for output, heads in zip(
            RAW_OUTPUTS if options.policy is None else TAIL_INPUTS,
            (network.loc, network.conf),
            strict=True,
        )
    )
    batch = "batch" if options.batch is None else options.batch
    side = spec.image_size
    if options.image_input == "uint8":
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, side, side, 3])
    else:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
    if options.policy is None:
        shapes = {
            "loc": (TensorProto.FLOAT, [batch, 4, spec.num_default_boxes]),
            "conf": (TensorProto.FLOAT, [batch, spec.num_channels, spec.num_default_boxes]),
        }
    else:
        single = options.batch == 1
        add_tail(builder, loc=loc, conf=conf, spec=spec, policy=options.policy, single=single)
        found = "nbox" if single else count_most_detections(spec, options.policy)
        shapes = {
            "bboxes": (TensorProto.FLOAT, [batch, found, 4]),
            "labels": (TensorProto.INT64, [batch, found]),
            "scores": (TensorProto.FLOAT, [batch, found]),
        }
    outputs = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in shapes.items()]
    if network.score_calibration is not None:
        metadata = {METADATA_SCORES: network.score_calibration.to_json(), **(metadata or {})}
    return finish_model(
        builder, inputs=[image], outputs=outputs, spec=spec, labels=network.labels,
        metadata=metadata,
    )  # fmt: skip
