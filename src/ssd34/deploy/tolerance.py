"""How far a replayed result may lie from the recorded one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ssd34.core.postprocess import ZOO, Policy

QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)
"""Operators that only int8 networks have, beside those that are called QLinear..."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of what counts as the same result.

    Attributes:
        name: what reports call it.
        score: largest difference between the scores of one detection.
        iou: smallest overlap between the boxes of one detection.
        raw: largest difference of an element of a raw output.
        share: largest share of detections without a partner, or of raw elements beyond `raw`.
    """

    name: str
    score: float
    iou: float
    raw: float
    share: float

    def unmatched(self, detections: int) -> int:
        """How many of so many detections may have no partner: at least one, or none at all."""
        return max(1, int(self.share * detections)) if self.share else 0


FLOAT = Tolerance(name="float", score=1e-3, iou=0.99, raw=1e-3, share=0)
"""Processors differ only in the order of their sums."""

INT8 = Tolerance(name="int8", score=0.05, iou=0.9, raw=0.5, share=0.02)
"""Processors also differ in how they round int8, and other programs than ours may have recorded
with sums that saturate where there is no VNNI."""


def tolerance_of(graph: onnx.GraphProto) -> Tolerance:
    """`INT8` where the graph has an operator of quantized networks, else `FLOAT`."""
    quantized = any(
        node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in graph.node
    )
    return INT8 if quantized else FLOAT


def tail_policy(graph: onnx.GraphProto) -> Policy:
    """The zoo policy with the score threshold and largest number of detections of a tidied graph.

    The threshold is NonMaxSuppression's. The number is the fixed size of ``scores``, else the
    constant of our own tail. Where they cannot be found they are those of the published files.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def scalar(name: str, default: float) -> float:
        if name not in constants:
            return default
        values = numpy_helper.to_array(constants[name])
        usable = values.size == 1 and np.isfinite(values).all()
        return float(values.flat[0]) if usable else default

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
