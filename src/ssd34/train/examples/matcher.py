"""Which default box learns which object, by the published rule or by ATSS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import cxcywh_from_xyxy, pairwise_coverage, pairwise_iou, xyxy_from_cxcywh
from ssd34.core.spec import ModelSpec

MATCH_IOU = 0.5
"""A default box that no object claims learns its best object only above this overlap."""

CROWD_SHARE = 0.5
"""A default box of which a crowd covers more than this learns no background."""

NEAREST_CELLS = 9
"""Of each level, for ATSS."""

REACH = 4
"""Cells to each side of an object's middle among which its nearest ones are looked for."""

IGNORED = -1
"""Label of a default box that learns nothing: neither an object nor background."""


Levels = Sequence[tuple[int, int]]
"""Of each feature map how many cells it has along each side, and default boxes at each."""


def list_levels(spec: ModelSpec) -> Levels:
    """The levels of a network, in the default boxes' order."""
    return list(zip(spec.feature_sizes, spec.boxes_per_cell, strict=True))


class Matches(NamedTuple):
    """What each default box learns.

    Attributes:
        labels: (A,) int64: class 1..N, 0 background, `IGNORED`.
        boxes_cxcywh: (A, 4) float32: its object's box, or the default box itself.
        objects: (A,) int64: which object that is; -1: none.
    """

    labels: NDArray[np.int64]
    boxes_cxcywh: NDArray[np.float32]
    objects: NDArray[np.int64]


def match(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    default_boxes_cxcywh: NDArray[np.float32],
    ignored_boxes: NDArray[np.float32] | None = None,
    crowd_boxes: NDArray[np.float32] | None = None,
    levels: Levels | None = None,
) -> Matches:
    """Give every default box its object.

    The published rule (source: the training benchmark): every object claims the default box that
    overlaps it most; then every other default box takes the object that it overlaps most, where
    IoU > 0.5.

    With `levels` the rule of ATSS: see `find_candidates`. A default box takes the object that it
    overlaps most of those that it is a candidate of; an object that is left without one claims
    as above.

    A default box without an object learns nothing where it overlaps one of the `ignored_boxes`,
    single objects that do not count, by more than 0.5, or where one of the `crowd_boxes`, groups of
    objects, covers more than half of its area: so COCO's metric compares a detection with a crowd,
    as its IoU with a large one is small wherever it lies.

    Boxes (N, 4), (M, 4) and (K, 4) are float32 xyxy in fractions of the picture, labels (N,) int64,
    1..classes, default boxes (A, 4) float32.
    """
    target_labels = np.zeros(len(default_boxes_cxcywh), np.int64)
    targets = default_boxes_cxcywh.copy()
    if ignored_boxes is not None and len(ignored_boxes):
        overlap = pairwise_iou(ignored_boxes, _corners(default_boxes_cxcywh)).max(axis=0)
        target_labels[overlap > MATCH_IOU] = IGNORED
    if crowd_boxes is not None and len(crowd_boxes):
        covered = pairwise_coverage(crowd_boxes, _corners(default_boxes_cxcywh)).max(axis=0)
        target_labels[covered > CROWD_SHARE] = IGNORED
    learned = np.full(len(target_labels), -1)
    if len(boxes) == 0:
        return Matches(target_labels, targets, learned)
    if levels is None:
        matched, objects = _by_threshold(boxes, default_boxes_cxcywh)
    else:
        matched, objects = _by_candidates(boxes, default_boxes_cxcywh, levels)
    target_labels[matched] = labels[objects]
    targets[matched] = cxcywh_from_xyxy(boxes)[objects]
    learned[matched] = objects
    return Matches(target_labels, targets, learned)


def _corners(default_boxes_cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(xyxy_from_cxcywh(default_boxes_cxcywh), np.float32)


def _by_threshold(
    boxes: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The published rule: the default boxes (K,) that learn, and the object (K,) of each."""
    iou = pairwise_iou(boxes, _corners(default_boxes_cxcywh))
    best_object, best_iou = iou.argmax(axis=0), iou.max(axis=0)
    claimed = iou.argmax(axis=1)
    best_iou[claimed] = 2
    best_object[claimed] = np.arange(len(boxes))
    matched = np.flatnonzero(best_iou > MATCH_IOU)
    return matched, best_object[matched]


def _by_candidates(
    boxes: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32], levels: Levels
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same by ATSS."""
    objects, chosen, iou = find_candidates(boxes, default_boxes_cxcywh, levels)
    order = np.lexsort((objects, -iou, chosen))
    matched, first = np.unique(chosen[order], return_index=True)
    takers = objects[order][first]
    left_out = np.setdiff1d(np.arange(len(boxes)), takers)
    if len(left_out) == 0:
        return matched, takers
    claimed = pairwise_iou(boxes[left_out], _corners(default_boxes_cxcywh)).argmax(axis=1)
    object_of = dict(zip(matched.tolist(), takers.tolist(), strict=True))
    object_of |= dict(zip(claimed.tolist(), left_out.tolist(), strict=True))
    return np.array([*object_of], np.int64), np.array([*object_of.values()], np.int64)


def find_candidates(
    boxes: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32], levels: Levels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The default boxes that ATSS gives to each object (source: Zhang et al., 2020), as pairs that
    overlap: objects (K,), default boxes (K,), their IoU (K,).

    Of each level those of the nine cells whose centres are nearest to the object's compete. They
    fit whose IoU is at least the competitors' mean plus their standard deviation, and whose
    centre lies in the object.
    """
    near = _nearest(boxes, default_boxes_cxcywh, levels)
    competing = default_boxes_cxcywh[near]
    # One coordinate at a time: NumPy is several times slower along a last axis of two.
    x, y, half_width, half_height = (competing[..., axis] / (1 + axis // 2) for axis in range(4))
    left, top, right, bottom = (boxes[:, side, None] for side in range(4))
    width = np.minimum(right, x + half_width) - np.maximum(left, x - half_width)
    height = np.minimum(bottom, y + half_height) - np.maximum(top, y - half_height)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = (right - left) * (bottom - top) + 4 * half_width * half_height - overlap
    iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union != 0)
    spread = iou.astype(np.float64)
    bound = spread.mean(axis=1, keepdims=True) + spread.std(axis=1, keepdims=True)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    objects, numbers = np.nonzero(inside & (iou >= bound) & (iou > 0))
    return objects, near[objects, numbers], iou[objects, numbers]


def _nearest(
    boxes: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32], levels: Levels
) -> NDArray[np.int64]:
    """(N, K): the default boxes of each level's nine cells that are nearest to each object."""
    middle_x, middle_y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    numbers, start = [], 0
    for side, boxes_per_cell in levels:
        # A level's boxes are ordered by shape, then by row and column.
        line = default_boxes_cxcywh[start : start + side, 0]
        columns, across = _around(middle_x, line)
        rows, down = _around(middle_y, line)
        distance = np.sqrt(across[:, None, :] ** 2 + down[:, :, None] ** 2)
        cells = rows[:, :, None] * side + columns[:, None, :]
        order = distance.reshape(len(boxes), -1).argsort(axis=1, kind="stable")
        nearest = np.take_along_axis(
            cells.reshape(len(boxes), -1), order[:, :NEAREST_CELLS], axis=1
        )
        shapes = start + np.arange(boxes_per_cell) * side**2
        numbers.append((shapes[:, None] + nearest[:, None, :]).reshape(len(boxes), -1))
        start += side**2 * boxes_per_cell
    return np.concatenate(numbers, axis=1)


def _around(
    middles: NDArray[np.float32], line: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The cells of a line around objects' middles (N,), and how far they are, both (N, K): enough
    for the nine nearest of a square to be among them, at an edge, too."""
    count = min(len(line), 2 * REACH + 1)
    first = np.clip(line.searchsorted(middles) - REACH, 0, len(line) - count)
    cells = first[:, None] + np.arange(count)
    return cells, np.abs(line[cells] - middles[:, None])
