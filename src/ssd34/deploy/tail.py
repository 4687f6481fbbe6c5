"""The tail: raw outputs to boxes, labels and scores as ONNX operators.

The same arithmetic as `ssd34.core.postprocess` under the zoo policy, which is what the
published files carry. Only operators of opset 10 are used, so every opset gets the same tail.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ssd34.core.box_coder import CENTRE_VARIANCE, SIZE_VARIANCE
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.postprocess import Policy
from ssd34.core.spec import ModelSpec
from ssd34.deploy.graph import GraphBuilder
from ssd34.errors import OptionError

OUTPUTS = ("bboxes", "labels", "scores")


def add_tail(
    builder: GraphBuilder, *, loc: str, conf: str, spec: ModelSpec, policy: Policy
) -> None:
    """Add decode, softmax and non-maximum suppression for one picture.

    Writes the outputs ``bboxes`` (1, D, 4) float32 xyxy in fractions of the picture, ``labels``
    (1, D) int64 and ``scores`` (1, D) float32, best first.

    Args:
        builder: receives the nodes.
        loc: name of the (1, 4, A) offsets.
        conf: name of the (1, channels, A) logits.
        spec: the network.
        policy: one that ONNX's operator can express, as the zoo policy.

    Raises:
        OptionError: ONNX's NonMaxSuppression cannot express the policy.
    """
    if policy.inclusive or policy.candidates_per_class or policy.worst_first:
        raise OptionError(
            f"the policy {policy.name!r} cannot be expressed with ONNX's NonMaxSuppression; "
            "export with --policy zoo, or with --tail none and apply it at run time"
        )
    boxes = _decode(builder, loc, spec)
    scores = _class_scores(builder, conf, spec)
    _select(builder, boxes=boxes, scores=scores, spec=spec, policy=policy)


def _decode(builder: GraphBuilder, loc: str, spec: ModelSpec) -> str:
    """(1, A, 4) xyxy boxes."""
    defaults = default_boxes_cxcywh(spec)[None]
    offsets = builder.node("Transpose", "tail.offsets", [loc], perm=[0, 2, 1])
    halves = []
    for name, start in (("centre", 0), ("size", 2)):
        bounds = [
            builder.constant(f"tail.{name}.{what}", np.array([value], np.int64))
            for what, value in (("start", start), ("end", start + 2), ("axis", 2))
        ]
        halves.append(builder.node("Slice", f"tail.{name}.offsets", [offsets, *bounds]))
    default_size = builder.constant("tail.default_size", defaults[..., 2:])
    default_centre = builder.constant("tail.default_centre", defaults[..., :2])
    centre_variance = builder.constant("tail.centre_variance", _one(CENTRE_VARIANCE))
    size_variance = builder.constant("tail.size_variance", _one(SIZE_VARIANCE))
    shift = builder.node("Mul", "tail.centre.scaled", [halves[0], centre_variance])
    shift = builder.node("Mul", "tail.centre.shift", [shift, default_size])
    centre = builder.node("Add", "tail.centre", [shift, default_centre])
    growth = builder.node("Mul", "tail.size.scaled", [halves[1], size_variance])
    growth = builder.node("Exp", "tail.size.growth", [growth])
    size = builder.node("Mul", "tail.size", [growth, default_size])
    half = builder.node("Mul", "tail.half", [size, builder.constant("tail.0.5", _one(0.5))])
    left_top = builder.node("Sub", "tail.left_top", [centre, half])
    right_bottom = builder.node("Add", "tail.right_bottom", [centre, half])
    return builder.node("Concat", "tail.boxes", [left_top, right_bottom], axis=2)


def _one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([value], np.float32)


def _class_scores(builder: GraphBuilder, conf: str, spec: ModelSpec) -> str:
    """(1, classes, A) probabilities without background."""
    # Up to opset 12 softmax flattens everything before its axis: last axis, same meaning.
    by_box = builder.node("Transpose", "tail.logits", [conf], perm=[0, 2, 1])
    probabilities = builder.node("Softmax", "tail.softmax", [by_box], axis=2)
    by_class = builder.node("Transpose", "tail.probabilities", [probabilities], perm=[0, 2, 1])
    bounds = [
        builder.constant(f"tail.classes.{what}", np.array([value], np.int64))
        for what, value in (("start", 1), ("end", spec.num_channels), ("axis", 1))
    ]
    return builder.node("Slice", "tail.class_scores", [by_class, *bounds])


def _select(
    builder: GraphBuilder, *, boxes: str, scores: str, spec: ModelSpec, policy: Policy
) -> None:
    kept = policy.kept_per_class or spec.num_default_boxes
    limits = [
        builder.constant("tail.kept_per_class", np.array([kept], np.int64)),
        builder.constant("tail.iou_threshold", _one(policy.iou_threshold)),
        builder.constant("tail.score_threshold", _one(policy.score_threshold)),
    ]
    # (M, 3) rows of picture, class, box; class by class, best first.
    selected = builder.node("NonMaxSuppression", "tail.nms", [boxes, scores, *limits])
    columns = []
    for name, column in (("class", 1), ("box", 2)):
        index = builder.constant(f"tail.column.{name}", np.array(column, np.int64))
        columns.append(builder.node("Gather", f"tail.{name}", [selected, index], axis=1))
    classes, anchors = columns

    flat_shape = builder.constant("tail.flat_shape", np.array([-1], np.int64))
    count = builder.constant("tail.num_boxes", np.array([spec.num_default_boxes], np.int64))
    place = builder.node("Mul", "tail.class.start", [classes, count])
    place = builder.node("Add", "tail.place", [place, anchors])
    flat_scores = builder.node("Reshape", "tail.flat_scores", [scores, flat_shape])
    kept_scores = builder.node("Gather", "tail.kept_scores", [flat_scores, place], axis=0)

    # The best so many of M; opset 10 has no integer Min, and M is exact as float32.
    number = builder.node("Shape", "tail.kept_count", [kept_scores])
    number = builder.node("Cast", "tail.kept_count.float", [number], to=TensorProto.FLOAT)
    limit = builder.constant("tail.max_detections", _one(policy.max_detections))
    number = builder.node("Min", "tail.limit.float", [number, limit])
    number = builder.node("Cast", "tail.limit", [number], to=TensorProto.INT64)
    builder.nodes_out(
        "TopK", "tail.top", [kept_scores, number], ["tail.top.scores", "tail.top.rows"], axis=0
    )

    first = {"axis": 0}
    flat_boxes = builder.node(
        "Reshape",
        "tail.flat_boxes",
        [boxes, builder.constant("tail.boxes_shape", np.array([-1, 4], np.int64))],
    )
    top_anchors = builder.node("Gather", "tail.top.boxes", [anchors, "tail.top.rows"], **first)
    top_classes = builder.node("Gather", "tail.top.classes", [classes, "tail.top.rows"], **first)
    one = builder.constant("tail.1", np.array([1], np.int64))
    top_labels = builder.node("Add", "tail.top.labels", [top_classes, one])
    top_boxes = builder.node("Gather", "tail.boxes.best", [flat_boxes, top_anchors], **first)
    for name, value in zip(OUTPUTS, (top_boxes, top_labels, "tail.top.scores"), strict=True):
        builder.node("Unsqueeze", name, _unsqueeze_inputs(builder, value), **_axes(builder))


def _unsqueeze_inputs(builder: GraphBuilder, value: str) -> list[str]:
    """From opset 13 on the axes are an input instead of an attribute."""
    if builder.opset < 13:
        return [value]
    return [value, builder.constant("tail.batch_axis", np.array([0], np.int64))]


def _axes(builder: GraphBuilder) -> dict[str, list[int]]:
    return {"axes": [0]} if builder.opset < 13 else {}
