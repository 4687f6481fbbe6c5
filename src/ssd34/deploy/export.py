"""A checkpoint, or a network read from another file, as an ONNX file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ssd34.core.contract import METADATA_SCORES, RAW_OUTPUTS, TAIL_INPUTS
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, Policy
from ssd34.core.score_calibration import ScoreCalibration
from ssd34.core.spec import ModelSpec
from ssd34.data.checkpoint import Checkpoint
from ssd34.deploy.graph import GraphBuilder, finished_model, network_graph, normalised
from ssd34.deploy.network import IMAGE, Network, flattened_heads, float_layer
from ssd34.deploy.tail import add_tail, most_detections
from ssd34.errors import OptionError

IMAGE_INPUTS = ("float32", "uint8")


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
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"expected a batch of 1 or more, or dynamic, got {self.batch}")
        if self.image_input not in IMAGE_INPUTS:
            raise OptionError(
                f"unknown input {self.image_input!r}; expected one of {', '.join(IMAGE_INPUTS)}"
            )


def onnx_model(checkpoint: Checkpoint, options: ExportOptions) -> onnx.ModelProto:
    """Build the ONNX model of a checkpoint, its score calibration folded into the biases.

    Input ``image``. Outputs with a policy: ``bboxes`` (N, D, 4) float32 xyxy in fractions of the
    picture, ``labels`` (N, D) int64, ``scores`` (N, D) float32, best first; without: ``loc``
    (N, 4, A) and ``conf`` (N, channels, A), float32.

    Raises:
        OptionError: an option is outside what is allowed.
        CheckpointError: an array is missing.
    """
    builder = GraphBuilder(opset=options.opset, weight_format=options.weight_format)
    bytes_input = options.image_input == "uint8"
    locs, confs = network_graph(
        builder, checkpoint.calibrated, image="image", bytes_input=bytes_input
    )
    return with_outputs(
        builder,
        locs,
        confs,
        spec=checkpoint.spec,
        labels=checkpoint.labels,
        options=options,
        scores=checkpoint.score_calibration,
    )


def network_model(network: Network, options: ExportOptions) -> onnx.ModelProto:
    """Build the ONNX model of a network that was read from another ONNX file.

    Inputs and outputs are those of `onnx_model`.

    Raises:
        OptionError: an option is outside what is allowed.
    """
    builder = GraphBuilder(opset=options.opset, weight_format=options.weight_format)
    for layer in network.layers:
        inputs = layer.inputs
        if IMAGE in inputs and options.image_input == "uint8":
            image, stem = normalised(builder, IMAGE, layer.arrays)
            layer, inputs = dataclasses.replace(layer, conv=stem), (image,)
        float_layer(builder, layer, inputs, layer.name)
    heads = {name: name for name in (*network.loc, *network.conf)}
    locs, confs = flattened_heads(builder, network, heads)
    return with_outputs(
        builder,
        locs,
        confs,
        spec=network.spec,
        labels=network.labels,
        options=options,
        scores=network.score_calibration,
    )


def with_outputs(
    builder: GraphBuilder,
    locs: Sequence[str],
    confs: Sequence[str],
    *,
    spec: ModelSpec,
    labels: LabelSet,
    options: ExportOptions,
    scores: ScoreCalibration | None = None,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A builder's network with the outputs that the options ask for, as a checked model.

    Args:
        builder: holds the network, which reads the input ``image``.
        locs: names of each level's (N, 4, boxes) offsets.
        confs: names of each level's (N, channels, boxes) logits.
        spec: the network.
        labels: its classes.
        options: policy, batch and kind of input.
        scores: what the network's biases hold already; noted in the metadata.
        metadata: further entries.
    """
    loc_name, conf_name = RAW_OUTPUTS if options.policy is None else TAIL_INPUTS
    loc = builder.node("Concat", loc_name, locs, axis=2)
    conf = builder.node("Concat", conf_name, confs, axis=2)
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
        found = "nbox" if single else most_detections(spec, options.policy)
        shapes = {
            "bboxes": (TensorProto.FLOAT, [batch, found, 4]),
            "labels": (TensorProto.INT64, [batch, found]),
            "scores": (TensorProto.FLOAT, [batch, found]),
        }
    outputs = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in shapes.items()]
    if scores is not None:
        metadata = {METADATA_SCORES: scores.to_json(), **(metadata or {})}
    return finished_model(
        builder, inputs=[image], outputs=outputs, spec=spec, labels=labels, metadata=metadata
    )
