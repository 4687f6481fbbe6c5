"""The NMS in the file, with the arithmetic of `ssd34.core.postprocess`.

The tail for one picture uses only operators of opset 10; the one for several needs opset 11.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ssd34.core.contract import DETECTION_OUTPUTS, RAW_OUTPUTS, TAIL_INPUTS
from ssd34.core.default_boxes import CENTRE_VARIANCE, SIZE_VARIANCE, default_boxes_cxcywh
from ssd34.core.postprocess import ZOO, Policy, promising_margin
from ssd34.core.spec import ModelSpec
from ssd34.deploy.graph.builder import GraphBuilder
from ssd34.deploy.graph.onnx_file import read_constant, read_identity
from ssd34.errors import ModelError, OptionError


def add_tail(
    builder: GraphBuilder,
    *,
    loc: str,
    conf: str,
    spec: ModelSpec,
    policy: Policy,
    single: bool = True,
) -> None:
    """Add decode, softmax and non-maximum suppression, picture by picture, as ``bboxes`` (N, D, 4)
    float32 xyxy in fractions of the picture, ``labels`` (N, D) int64 and ``scores`` (N, D) float32,
    best first.

    Args:
        loc, conf: names of the (N, 4, A) offsets and the (N, channels, A) logits.
        policy: one that ONNX's operator can express.
        single: N is 1, and D is the number found. Else D is `count_most_detections`, filled up with
            score and label 0; OptionError where the opset is too old for that.
    """
    if not single and builder.opset < 11:
        raise OptionError(
            f"NMS in the file for several pictures needs opset 11 or newer, got {builder.opset}; "
            "export with --batch 1 or --opset 12"
        )
    tail = _Tail(builder, spec, policy)
    tail.decode(loc, conf, promising=single)
    tail.suppress()
    if single:
        tail.pick_of_one()
    else:
        tail.pick_of_each()


def read_tail_policy(graph: onnx.GraphProto) -> Policy:
    """The zoo policy with NonMaxSuppression's score threshold in a tidied graph, and its largest
    number of detections: the fixed size of ``scores``, else our own tail's constant. What cannot be
    found is as in the published files. ModelError: one of these constants is broken."""
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def scalar(name: str, default: float) -> float:
        if name not in constants:
            return default
        values = read_constant(constants[name])
        usable = values.size == 1 and np.isfinite(values).all()
        return float(str(values.flat[0])) if usable else default  # 0.01, not 0.0099999998

    threshold = ZOO.score_threshold
    for node in graph.node:
        if node.op_type == "NonMaxSuppression" and len(node.input) == 5:
            threshold = scalar(node.input[4], threshold)
    most = int(scalar("tail.max_detections", ZOO.max_detections))
    for output in graph.output:
        dimensions = output.type.tensor_type.shape.dim
        if output.name == "scores" and len(dimensions) == 2:
            most = dimensions[1].dim_value or most
    return ZOO.replace(score_threshold=min(max(threshold, 0.0), 1.0), max_detections=max(1, most))


def count_most_detections(spec: ModelSpec, policy: Policy) -> int:
    """The largest number of detections that a policy can return for a picture."""
    return min(policy.max_detections, spec.num_classes * spec.num_default_boxes)


class _Tail:
    """The tail's values, as it is added: ``boxes`` (N, A, 4) xyxy and ``scores`` (N, classes, A)
    without background, of the `count` A boxes that are looked at; then what survives in each class,
    columns `picture`, `label` and `box`, each (M,) int64."""

    def __init__(self, builder: GraphBuilder, spec: ModelSpec, policy: Policy) -> None:
        self.builder, self.spec, self.policy = builder, spec, policy

    def decode(self, loc: str, conf: str, *, promising: bool) -> None:
        """Boxes and scores, of the `promising` ones only or of all."""
        builder, spec = self.builder, self.spec
        defaults = default_boxes_cxcywh(spec)[None]
        by_box = {
            "logits": builder.node("Transpose", "tail.logits", [conf], perm=[0, 2, 1]),
            "offsets": builder.node("Transpose", "tail.offsets", [loc], perm=[0, 2, 1]),
            "centre": builder.constant("tail.default_centre", defaults[..., :2]),
            "size": builder.constant("tail.default_size", defaults[..., 2:]),
        }
        margin = promising_margin(self.policy.score_threshold)
        if promising and margin is not None:
            near = _promising(builder, by_box["logits"], spec, margin)
            by_box = {
                name: builder.node("Gather", f"tail.promising.{name}", [values, near], axis=1)
                for name, values in by_box.items()
            }
            self.count = builder.node("Shape", "tail.num_boxes", [near])
        else:
            self.count = builder.integers("tail.num_boxes", spec.num_default_boxes)
        self.boxes = _decode(builder, by_box)
        self.scores = _class_scores(builder, by_box["logits"], spec)

    def suppress(self) -> None:
        """What survives."""
        builder, spec = self.builder, self.spec
        kept = min(self.policy.kept_per_class or spec.num_default_boxes, spec.num_default_boxes)
        limits = [
            builder.integers("tail.kept_per_class", kept),
            builder.constant("tail.iou_threshold", _one(self.policy.iou_threshold)),
            builder.constant("tail.score_threshold", _one(self.policy.score_threshold)),
        ]
        # (M, 3) rows of picture, class, box; class by class, best first.
        selected = builder.node("NonMaxSuppression", "tail.nms", [self.boxes, self.scores, *limits])
        self.picture, self.label, self.box = (
            builder.node(
                "Gather",
                f"tail.{name}",
                [selected, builder.constant(f"tail.column.{name}", np.array(column, np.int64))],
                axis=1,
            )
            for column, name in enumerate(("picture", "class", "box"))
        )

    def _places(self) -> str:
        """(M,) index of each survivor in the flattened (classes, A) scores of its picture."""
        start = self.builder.node("Mul", "tail.class.start", [self.label, self.count])
        return self.builder.node("Add", "tail.place", [start, self.box])

    def pick_of_one(self) -> None:
        """The best of all classes in the only picture; as many as there are."""
        builder = self.builder
        flat_scores = _flat(builder, "tail.flat_scores", self.scores)
        place = self._places()
        kept_scores = builder.node("Gather", "tail.kept_scores", [flat_scores, place], axis=0)

        # The best so many of M; opset 10 has no integer Min, and M is exact as float32.
        number = builder.node("Shape", "tail.kept_count", [kept_scores])
        number = builder.node("Cast", "tail.kept_count.float", [number], to=TensorProto.FLOAT)
        limit = builder.constant("tail.max_detections", _one(self.policy.max_detections))
        number = builder.node("Min", "tail.limit.float", [number, limit])
        number = builder.node("Cast", "tail.limit", [number], to=TensorProto.INT64)
        top = ["tail.top.scores", "tail.top.rows"]
        builder.node("TopK", "tail.top", [kept_scores, number], outputs=top, axis=0)
        anchors, classes = (
            builder.node("Gather", f"tail.top.{name}", [values, "tail.top.rows"], axis=0)
            for name, values in (("box", self.box), ("class", self.label))
        )
        one = builder.integers("tail.1", 1)
        best_labels = builder.node("Add", "tail.top.labels", [classes, one])
        flat_boxes = _flat(builder, "tail.flat_boxes", self.boxes, 4)
        best_boxes = builder.node("Gather", "tail.top.boxes", [flat_boxes, anchors], axis=0)
        for name, value in zip(
            DETECTION_OUTPUTS, (best_boxes, best_labels, "tail.top.scores"), strict=True
        ):
            _unsqueeze(builder, name, value, axis=0)

    def pick_of_each(self) -> None:
        """The best of all classes in every picture, filled up to the same number."""
        builder, spec = self.builder, self.spec
        per_picture = spec.num_classes * spec.num_default_boxes
        size = builder.integers("tail.scores_per_picture", per_picture)
        start = builder.node("Mul", "tail.picture.start", [self.picture, size])
        place = builder.node("Add", "tail.flat_place", [start, self._places()])

        # Scores of the survivors, 0 for everything else.
        flat_scores = _flat(builder, "tail.flat_scores", self.scores)
        kept_scores = builder.node("Gather", "tail.kept_scores", [flat_scores, place], axis=0)
        nothing = builder.node(
            "Mul", "tail.zeros", [flat_scores, builder.constant("tail.0", _one(0))]
        )
        survivors = builder.node(
            "ScatterElements", "tail.survivors", [nothing, place, kept_scores], axis=0
        )
        by_picture = _flat(builder, "tail.by_picture", survivors, per_picture)
        most = builder.integers("tail.count", count_most_detections(spec, self.policy))
        top = ["scores", "tail.top.places"]
        builder.node("TopK", "tail.top", [by_picture, most], outputs=top, axis=1)

        classes = builder.node("Div", "tail.top.class", ["tail.top.places", self.count])
        class_start = builder.node("Mul", "tail.top.class.start", [classes, self.count])
        anchors = builder.node("Sub", "tail.top.box", ["tail.top.places", class_start])
        found = builder.node("Greater", "tail.found", ["scores", "tail.0"])
        one = builder.integers("tail.1", 1)
        labels = builder.node("Add", "tail.top.labels", [classes, one])
        found_labels = builder.node("Cast", "tail.found.int64", [found], to=TensorProto.INT64)
        builder.node("Mul", "labels", [labels, found_labels])

        # GatherElements wants an index for each of the four coordinates.
        column = _unsqueeze(builder, "tail.top.box.column", anchors, axis=2)
        columns = builder.node("Concat", "tail.top.box.columns", [column] * 4, axis=2)
        best_boxes = builder.node("GatherElements", "tail.top.boxes", [self.boxes, columns], axis=1)
        found_scale = builder.node("Cast", "tail.found.float", [found], to=TensorProto.FLOAT)
        found_column = _unsqueeze(builder, "tail.found.column", found_scale, axis=2)
        builder.node("Mul", "bboxes", [best_boxes, found_column])


def _promising(builder: GraphBuilder, logits: str, spec: ModelSpec, margin: float) -> str:
    """(M,) int64, ascending: the boxes in which a class may score above the threshold. Leaving out
    the others changes no detection: a box is only ever removed for one that scores as much or
    more."""
    background = builder.slice("tail.background", logits, 0, 1, axis=2)
    objects = builder.slice("tail.objects", logits, 1, spec.num_channels, axis=2)
    best = _last_max(builder, "tail.best_object", objects)
    lead = builder.node("Sub", "tail.lead", [best, background])
    least = builder.constant("tail.margin", _one(margin))
    near = builder.node("Greater", "tail.promising", [lead, least])
    places = builder.node("NonZero", "tail.promising.places", [near])  # rows: 0, box, 0
    row = builder.constant("tail.promising.row", np.array(1, np.int64))
    return builder.node("Gather", "tail.promising.boxes", [places, row], axis=0)


def _decode(builder: GraphBuilder, by_box: dict[str, str]) -> str:
    """(1, A, 4) xyxy boxes from ``offsets`` (1, A, 4), ``centre`` and ``size`` (1, A, 2)."""
    halves = [
        builder.slice(f"tail.{name}.offsets", by_box["offsets"], start, start + 2, axis=2)
        for name, start in (("centre", 0), ("size", 2))
    ]
    centre_variance = builder.constant("tail.centre_variance", _one(CENTRE_VARIANCE))
    size_variance = builder.constant("tail.size_variance", _one(SIZE_VARIANCE))
    shift = builder.node("Mul", "tail.centre.scaled", [halves[0], centre_variance])
    shift = builder.node("Mul", "tail.centre.shift", [shift, by_box["size"]])
    centre = builder.node("Add", "tail.centre", [shift, by_box["centre"]])
    growth = builder.node("Mul", "tail.size.scaled", [halves[1], size_variance])
    growth = builder.node("Exp", "tail.size.growth", [growth])
    size = builder.node("Mul", "tail.size", [growth, by_box["size"]])
    half = builder.node("Mul", "tail.half", [size, builder.constant("tail.0.5", _one(0.5))])
    left_top = builder.node("Sub", "tail.left_top", [centre, half])
    right_bottom = builder.node("Add", "tail.right_bottom", [centre, half])
    return builder.node("Concat", "tail.boxes", [left_top, right_bottom], axis=2)


def _class_scores(builder: GraphBuilder, logits: str, spec: ModelSpec) -> str:
    """(1, classes, A) probabilities without background."""
    # Up to opset 12 softmax flattens everything before its axis: last axis, same meaning.
    probabilities = builder.node("Softmax", "tail.softmax", [logits], axis=2)
    objects = builder.slice("tail.probabilities", probabilities, 1, spec.num_channels, axis=2)
    return builder.node("Transpose", "tail.class_scores", [objects], perm=[0, 2, 1])


def _one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([value], np.float32)


def _flat(builder: GraphBuilder, name: str, x: str, *last: int) -> str:
    shape = builder.integers(f"{name}.shape", -1, *last)
    return builder.node("Reshape", name, [x, shape])


def _last_max(builder: GraphBuilder, name: str, x: str) -> str:
    """The largest along the last of three axes, which stays; an input from opset 18 on."""
    if builder.opset < 18:
        return builder.node("ReduceMax", name, [x], axes=[2], keepdims=1)
    return builder.node("ReduceMax", name, [x, builder.integers(f"{name}.axis", 2)])


def _unsqueeze(builder: GraphBuilder, name: str, x: str, *, axis: int) -> str:
    """The axes are an input from opset 13 on."""
    if builder.opset < 13:
        return builder.node("Unsqueeze", name, [x], axes=[axis])
    return builder.node("Unsqueeze", name, [x, builder.integers(f"tail.axis.{axis}", axis)])


def cut_tail(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported model that ends at loc (N, 4, A) and conf (N, channels, A), float32.
    ModelError: the NMS in the file is not ours, so it cannot be cut off."""
    known = {name for node in model.graph.node for name in node.output}
    if not known.issuperset(TAIL_INPUTS):
        raise ModelError(
            "the NMS in the file is not as ssd34 export writes it, so the network's raw outputs "
            "are not known; export the checkpoint with --tail none"
        )
    spec, _ = read_identity(model)
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
