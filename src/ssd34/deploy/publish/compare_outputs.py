"""Recorded and replayed outputs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd34.core.boxes import pairwise_iou
from ssd34.core.postprocess import Picked, Policy
from ssd34.deploy.graph.layers import QUANTIZED
from ssd34.text import counted


@dataclass(frozen=True)
class OutputComparison:
    """What is not within the tolerance, a line each; what was measured, in one line."""

    mismatches: tuple[str, ...]
    summary: str


@dataclass(frozen=True)
class Pair:
    """A recorded detection and the replayed one that is taken for the same; indices."""

    recorded: int
    replayed: int
    iou: float


def pair_detections(recorded: Picked, replayed: Picked, *, least_iou: float) -> list[Pair]:
    """Pairs of one class whose boxes overlap by `least_iou`, each detection in one pair at most.

    Greedy: the largest overlap first; among equal ones the highest recorded, then the highest
    replayed score. The order of the detections does not matter.
    """
    candidates: list[Pair] = []
    for row, label in enumerate(recorded.labels):
        same = np.flatnonzero(replayed.labels == label)
        iou = _overlaps(recorded.boxes[row], replayed.boxes[same])
        close = np.flatnonzero(iou >= least_iou)
        candidates += [Pair(row, int(same[k]), float(iou[k])) for k in close]
    candidates.sort(
        key=lambda p: (-p.iou, -recorded.scores[p.recorded], -replayed.scores[p.replayed])
    )
    pairs: list[Pair] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for pair in candidates:
        if pair.recorded not in rows and pair.replayed not in columns:
            pairs.append(pair)
            rows.add(pair.recorded)
            columns.add(pair.replayed)
    return pairs


def _overlaps(box: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of a box (4,) with boxes (N, 4); 1 for the very same box, even one without area."""
    wide = boxes.astype(np.float64)
    iou = pairwise_iou(box.astype(np.float64)[None], wide)[0]
    return np.where((boxes == box).all(axis=1), 1.0, iou)


def compare_detections(
    recorded: Picked, replayed: Picked, *, tolerance: Tolerance, policy: Policy
) -> OutputComparison:
    """Compare the detections of one picture.

    A detection without a partner is no mismatch where its score lies so close to the policy's
    threshold, or to the lowest score of a full list, that rounding decides whether it is there. At
    least half of what is recorded must be found all the same.
    """
    for name, picked in (("recorded", recorded), ("replayed", replayed)):
        if not (np.isfinite(picked.boxes).all() and np.isfinite(picked.scores).all()):
            return OutputComparison((f"{name} values are not finite",), "")
    floor = policy.score_threshold
    for picked in (recorded, replayed):
        if len(picked.scores) >= policy.max_detections:
            floor = max(floor, float(picked.scores.min()))
    pairs = pair_detections(recorded, replayed, least_iou=tolerance.iou)
    mismatches: list[str] = []
    worst = 0.0
    for pair in pairs:
        was, now = float(recorded.scores[pair.recorded]), float(replayed.scores[pair.replayed])
        worst = max(worst, abs(was - now))
        if abs(was - now) > tolerance.score:
            what = _describe(recorded, pair.recorded)
            mismatches.append(
                f"{what}: score {now:.4f}, differs by {abs(was - now):.2g} > {tolerance.score:g}"
            )
    certain = floor + tolerance.score
    missing = _certain(recorded, {pair.recorded for pair in pairs}, certain)
    extra = _certain(replayed, {pair.replayed for pair in pairs}, certain)
    if len(missing) > tolerance.unmatched(len(recorded.labels)):
        mismatches += [
            f"{_describe(recorded, k)}: not found; {_nearest(recorded, k, replayed)}"
            for k in missing
        ]
    if len(extra) > tolerance.unmatched(len(replayed.labels)):
        mismatches += [f"{_describe(replayed, k)}: found, but not recorded" for k in extra]
    if 2 * len(pairs) < len(recorded.labels):
        mismatches.append(
            f"{len(pairs)} of {len(recorded.labels)} recorded detections found, expected half "
            "or more"
        )
    lowest = f"{min(pair.iou for pair in pairs):.4f}" if pairs else "-"
    summary = (
        f"{len(pairs)} of {counted(len(recorded.labels), 'detection')} matched, "
        f"{counted(len(replayed.labels) - len(pairs), 'other')}; largest score difference "
        f"{worst:.2g} (limit {tolerance.score:g}), lowest IoU {lowest} (limit {tolerance.iou:g})"
    )
    return OutputComparison(tuple(mismatches), summary)


def _certain(picked: Picked, partnered: set[int], score: float) -> list[int]:
    """Indices of the detections without a partner that cannot be left out by rounding."""
    return [k for k, value in enumerate(picked.scores) if value > score and k not in partnered]


def _describe(picked: Picked, index: int) -> str:
    box = " ".join(f"{value:.3f}" for value in picked.boxes[index])
    return f"label {picked.labels[index]} score {picked.scores[index]:.4f} box [{box}]"


def _nearest(picked: Picked, index: int, others: Picked) -> str:
    """What is where a detection should be."""
    label = picked.labels[index]
    iou = _overlaps(picked.boxes[index], others.boxes)
    own = float(iou[others.labels == label].max(initial=0))
    text = f"best IoU with its label {own:.4f}"
    if len(iou) and iou.max() > own:
        text += f", with label {others.labels[iou.argmax()]} {iou.max():.4f}"
    return text


def compare_raw(
    name: str, recorded: NDArray[Any], replayed: NDArray[Any], *, tolerance: Tolerance
) -> OutputComparison:
    """Compare an output of any shape element by element; texts are alike or differ by 1."""
    if recorded.shape != replayed.shape:
        shapes = f"{list(replayed.shape)}, recorded is {list(recorded.shape)}"
        return OutputComparison((f"{name}: has shape {shapes}",), "")
    if recorded.dtype == object:  # texts
        recorded, replayed = np.zeros(recorded.shape), recorded != replayed
    was, now = recorded.astype(np.float64), replayed.astype(np.float64)
    if not (np.isfinite(was).all() and np.isfinite(now).all()):
        return OutputComparison((f"{name}: values are not finite",), "")
    difference = np.abs(was - now)
    beyond = int((difference > tolerance.raw).sum())
    largest = float(difference.max(initial=0))
    summary = f"{name}: largest difference {largest:.2g} (limit {tolerance.raw:g})"
    if beyond <= tolerance.share * difference.size:
        return OutputComparison((), summary)
    place = ", ".join(str(k) for k in np.unravel_index(difference.argmax(), difference.shape))
    return OutputComparison(
        (f"{summary} at [{place}]; {beyond} of {difference.size} elements are beyond it",), summary
    )


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of what counts as the same result.

    Attributes:
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


def choose_tolerance(graph: onnx.GraphProto) -> Tolerance:
    """`INT8` where the graph has an operator of quantized networks, else `FLOAT`."""
    quantized = any(
        node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in graph.node
    )
    return INT8 if quantized else FLOAT
