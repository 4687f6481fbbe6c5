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

MATCHERS = ("iou", "atss")
"""The published rule, and a threshold for each object."""

NEAREST_CELLS = 9
"""Of each level, for ATSS."""

IGNORED = -1
"""Label of a default box that learns nothing: neither an object nor background."""


class Level(NamedTuple):
    """How many cells a feature map has, and how many default boxes are at each."""

    cells: int
    boxes_per_cell: int


def levels_of(spec: ModelSpec) -> tuple[Level, ...]:
    """The levels of a network, in the default boxes' order."""
    sides = zip(spec.feature_sizes, spec.boxes_per_cell, strict=True)
    return tuple(Level(side * side, count) for side, count in sides)


class Matches(NamedTuple):
    """What each default box learns.

    Attributes:
        labels: (A,) int64: class 1..N, 0 background, `IGNORED`.
        boxes_cxcywh: (A, 4) float32: its object's box, or the default box itself.
    """

    labels: NDArray[np.int64]
    boxes_cxcywh: NDArray[np.float32]


def match(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    default_boxes_cxcywh: NDArray[np.float32],
    ignored_boxes: NDArray[np.float32] | None = None,
    crowd_boxes: NDArray[np.float32] | None = None,
    levels: Sequence[Level] | None = None,
) -> Matches:
    """Give every default box its object.

    The published rule (source: the training benchmark): every object claims the default box that
    overlaps it most; then every other default box takes the object that it overlaps most, where
    IoU > 0.5.

    With `levels` the rule of ATSS: see `candidates`. A default box takes the object that it
    overlaps most of those that it is a candidate of; an object that is left without one claims
    as above.

    Args:
        boxes: (N, 4) float32 xyxy, fractions of the picture.
        labels: (N,) int64, 1..classes.
        default_boxes_cxcywh: (A, 4) float32.
        ignored_boxes: (M, 4) float32 xyxy, single objects that do not count. A default box that
            has no object and overlaps one of these by more than 0.5 learns nothing.
        crowd_boxes: (K, 4) float32 xyxy, groups of objects. A default box that has no object and
            of whose area one of these covers more than half learns nothing, as COCO's metric
            compares a detection with a crowd: its IoU with a large one is small wherever it lies.
        levels: the default boxes' levels, for ATSS; None: the published rule.
    """
    target_labels = np.zeros(len(default_boxes_cxcywh), np.int64)
    targets = default_boxes_cxcywh.copy()
    corners = xyxy_from_cxcywh(default_boxes_cxcywh).astype(np.float32)
    if ignored_boxes is not None and len(ignored_boxes):
        overlap = pairwise_iou(ignored_boxes, corners).max(axis=0)
        target_labels[overlap > MATCH_IOU] = IGNORED
    if crowd_boxes is not None and len(crowd_boxes):
        covered = pairwise_coverage(crowd_boxes, corners).max(axis=0)
        target_labels[covered > CROWD_SHARE] = IGNORED
    if len(boxes) == 0:
        return Matches(target_labels, targets)
    iou = pairwise_iou(boxes, corners)
    if levels is None:
        claiming = np.arange(len(boxes))
        overlap, least = iou, MATCH_IOU
    else:
        fits = candidates(boxes, iou, default_boxes_cxcywh[:, :2], levels)
        overlap, least = np.where(fits, iou, 0), 0.0
        taken = np.unique(overlap.argmax(axis=0)[fits.any(axis=0)])
        claiming = np.setdiff1d(np.arange(len(boxes)), taken)
    best_object = overlap.argmax(axis=0)
    best_iou = overlap.max(axis=0)
    claimed = iou[claiming].argmax(axis=1)
    best_iou[claimed] = 2
    best_object[claimed] = claiming
    matched = best_iou > least
    target_labels[matched] = labels[best_object[matched]]
    targets[matched] = cxcywh_from_xyxy(boxes)[best_object[matched]]
    return Matches(target_labels, targets)


def candidates(
    boxes: NDArray[np.float32],
    iou: NDArray[np.float32],
    centres: NDArray[np.float32],
    levels: Sequence[Level],
) -> NDArray[np.bool_]:
    """The default boxes that ATSS gives to each object. Source: Zhang et al., 2020.

    Of each level those of the nine cells whose centres are nearest to the object's compete. They
    fit whose IoU is at least the competitors' mean plus their standard deviation, and whose
    centre lies in the object.

    Args:
        boxes: (N, 4) float32 xyxy, fractions of the picture.
        iou: (N, A) with each default box.
        centres: (A, 2) of the default boxes.
        levels: how many default boxes each level has.

    Returns:
        (N, A) bool.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.linalg.norm(middle[:, None] - centres[None], axis=2)
    blocks, start = [], 0
    for level in levels:
        # A level's boxes are ordered by shape, then by cell: the first shape has every cell once.
        cells = distance[:, start : start + level.cells].argsort(axis=1, kind="stable")
        chosen = np.zeros((len(boxes), level.cells), np.bool_)
        np.put_along_axis(chosen, cells[:, :NEAREST_CELLS], True, axis=1)
        blocks.append(np.tile(chosen, level.boxes_per_cell))
        start += level.cells * level.boxes_per_cell
    near = np.concatenate(blocks, axis=1)
    competing = np.where(near, iou, np.nan).astype(np.float64)
    bound = np.nanmean(competing, axis=1) + np.nanstd(competing, axis=1)
    inside = ((centres[None] > boxes[:, None, :2]) & (centres[None] < boxes[:, None, 2:])).all(
        axis=2
    )
    return np.asarray(near & inside & (iou >= bound[:, None]))
