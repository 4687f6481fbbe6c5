"""Raw network outputs to detections: softmax, decode and the named policies.

A policy is the recipe of thresholds and non-maximum suppression (NMS) that picks detections out of
thousands of scored boxes. The same weights give different AP under different policies.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import pairwise_iou
from ssd34.core.default_boxes import decode
from ssd34.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How detections are picked, each class for itself; background never counts.

    Attributes:
        score_threshold: only scores above it count.
        iou_threshold: overlap from which the lower-scored of two boxes is removed.
        inclusive: remove at IoU >= threshold instead of IoU > threshold.
        candidates_per_class: the best so many enter NMS; None: all.
        kept_per_class: NMS stops after so many; None: no limit.
        max_detections: the best so many over all classes are returned.
        worst_first: return them in ascending order of score.
        clamp_iou: see `ssd34.core.boxes.pairwise_iou`.
    """

    name: str
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    inclusive: bool = False
    candidates_per_class: int | None = None
    kept_per_class: int | None = None
    max_detections: int = 200
    worst_first: bool = False
    clamp_iou: bool = True

    def __post_init__(self) -> None:
        for what in ("score_threshold", "iou_threshold"):
            value = getattr(self, what)
            if not 0 <= value <= 1:
                raise OptionError(f"expected {what} in 0..1, got {value}")
        if self.max_detections < 1:
            raise OptionError(f"expected max_detections >= 1, got {self.max_detections}")

    @property
    def in_graph(self) -> bool:
        """Whether ONNX's NonMaxSuppression can express it."""
        return not (self.inclusive or self.candidates_per_class or self.worst_first)

    def replace(self, **changes: Any) -> Policy:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def at_least(self, score: float) -> Policy:
        """The same picks without those that score less than `score`, found sooner.

        No other pick changes: a box is only ever removed for one that scores as much or more, and
        every limit keeps the best.
        """
        below = np.nextafter(np.float32(score), np.float32(-1))
        if not below > np.float32(self.score_threshold):
            return self
        return self.replace(score_threshold=min(1.0, float(below)))


ZOO = Policy(name="zoo", kept_per_class=200)
"""What the published ONNX graphs do."""

MLPERF = Policy(name="mlperf", inclusive=True, candidates_per_class=200, worst_first=True)
"""What the benchmark's Python code does, with a correct IoU."""

MLPERF_UNCLAMPED = MLPERF.replace(name="mlperf-unclamped", clamp_iou=False)
"""The inference benchmark's code to the letter, with its unclamped IoU."""

BEST = ZOO.replace(
    name="best", score_threshold=0.02, iou_threshold=0.55, kept_per_class=100, max_detections=1000
)
"""More room for detections, and still in the form that a graph can hold; see
docs/decisions/0005-policies.md."""

POLICIES: dict[str, Policy] = {
    policy.name: policy for policy in (ZOO, BEST, MLPERF, MLPERF_UNCLAMPED)
}


def named_policy(name: str) -> Policy:
    """The policy of a name; OptionError, which lists them, where there is none."""
    try:
        return POLICIES[name]
    except KeyError:
        raise OptionError(
            f"unknown NMS policy {name!r}; expected one of {', '.join(POLICIES)}"
        ) from None


class Picked(NamedTuple):
    """The detections of one picture: boxes (N, 4) float32 xyxy in fractions of it, labels (N,)
    int64, 1..classes, and scores (N,) float32."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


def softmax(conf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the channels (axis 0) of one picture's (channels, A) float32 output."""
    shifted = np.exp(conf - conf.max(axis=0, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=0, keepdims=True), np.float32)


def postprocess(
    loc: NDArray[np.float32],
    conf: NDArray[np.float32],
    *,
    default_boxes_cxcywh: NDArray[np.float32],
    policy: Policy,
) -> Picked:
    """Detections of one picture from the network's raw outputs, `loc` (4, A) float32 offsets and
    `conf` (classes + 1, A) float32 logits, channel 0 background; default boxes (A, 4) float32."""
    near = _promising(conf, policy.score_threshold)
    return pick(
        decode(loc[:, near], default_boxes_cxcywh[near]),
        softmax(conf.take(near, axis=1)),
        policy=policy,
    )


_SLACK = 0.01
"""Logits are rounded a thousand times finer; `pick` drops what this lets through in excess."""


def promising_margin(score_threshold: float) -> float | None:
    """What a class's logit must exceed the background's by, at least, to score above a threshold;
    None where that is 0 or 1, so that no box can be told to be without a chance.

    With all other classes left out, softmax is p = 1 / (1 + exp(background - logit)), and more
    classes only lower it. So p > t needs logit - background > log(t / (1 - t)).
    """
    if not 0 < score_threshold < 1:
        return None
    return math.log(score_threshold / (1 - score_threshold)) - _SLACK


def _promising(conf: NDArray[np.float32], score_threshold: float) -> NDArray[np.int64]:
    """Indices of the boxes in which a class may score above the threshold: most have none."""
    margin = promising_margin(score_threshold)
    if margin is None or len(conf) < 2:
        return np.arange(conf.shape[1])
    near = np.flatnonzero(conf[1:].max(axis=0) - conf[0] > margin)
    # A single column would be summed in another order, which rounds differently.
    return near if len(near) != 1 else np.arange(conf.shape[1])


def pick(boxes: NDArray[np.float32], scores: NDArray[np.float32], *, policy: Policy) -> Picked:
    """Apply a policy to decoded boxes (A, 4) float32 xyxy and their probabilities (classes + 1, A)
    float32; channel 0 is background."""
    rows, labels = pick_rows(boxes, scores, policy=policy)
    return Picked(boxes[rows], labels, scores[labels, rows])


def pick_rows(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], *, policy: Policy
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`pick`, telling which box (N,) and which label (N,) each detection is instead of copying."""
    above, anchors = np.nonzero(scores[1:] > np.float32(policy.score_threshold))
    kept = [np.zeros(0, np.int64)]
    for label, first, count in zip(
        *np.unique(above, return_index=True, return_counts=True), strict=True
    ):
        candidates = anchors[first : first + count]
        of_class = nms(boxes[candidates], scores[label + 1, candidates], policy=policy)
        kept.append(first + of_class)
    found = np.concatenate(kept)
    labels, anchors = above[found] + 1, anchors[found]
    found_scores = scores[labels, anchors]
    best = np.argsort(-found_scores, kind="stable")[: policy.max_detections]
    if policy.worst_first:
        best = best[::-1]
    return anchors[best], labels[best]


_BLOCK = 64
"""Boxes that NMS compares with all others at once: enough to keep NumPy busy, little memory."""


def nms(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], *, policy: Policy
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of one class: the indices (K,) int64 of the boxes (N, 4)
    float32 xyxy that a policy keeps, best first, by their scores (N,) float32."""
    order = np.argsort(-scores, kind="stable")[: policy.candidates_per_class]
    kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    count = 0
    limit = len(order) if policy.kept_per_class is None else policy.kept_per_class
    while len(order) and count < limit:
        block, rest = order[:_BLOCK], order[_BLOCK:]
        among = np.triu(_overlapping(boxes[block], boxes[block], policy), 1)
        alive = np.ones(len(block), bool)
        for best in np.flatnonzero(among.any(axis=1)):
            if alive[best]:
                alive &= ~among[best]
        block = block[alive]
        kept.append(block)
        count += len(block)
        order = rest[~_overlapping(boxes[block], boxes[rest], policy).any(axis=0)]
    return np.concatenate(kept)[:limit]


def _overlapping(
    a: NDArray[np.float32], b: NDArray[np.float32], policy: Policy
) -> NDArray[np.bool_]:
    """Which pairs (N, M) of two boxes of a class the policy does not let stay together."""
    iou, threshold = pairwise_iou(a, b, clamp=policy.clamp_iou), np.float32(policy.iou_threshold)
    return np.asarray(iou >= threshold if policy.inclusive else iou > threshold)
