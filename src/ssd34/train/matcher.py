"""Which default box learns which object. Source: the training benchmark."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import cxcywh_from_xyxy, pairwise_iou, xyxy_from_cxcywh

MATCH_IOU = 0.5
"""A default box that no object claims learns its best object only above this overlap."""

IGNORED = -1
"""Label of a default box that learns nothing: neither an object nor background."""


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
) -> Matches:
    """Give every default box its object.

    Every object claims the default box that overlaps it most; then every other default box
    takes the object that it overlaps most, where IoU > 0.5.

    Args:
        boxes: (N, 4) float32 xyxy, fractions of the picture.
        labels: (N,) int64, 1..classes.
        default_boxes_cxcywh: (A, 4) float32.
        ignored_boxes: (M, 4) float32 xyxy. A default box that has no object and overlaps one
            of these by more than 0.5 learns nothing.
    """
    target_labels = np.zeros(len(default_boxes_cxcywh), np.int64)
    targets = default_boxes_cxcywh.copy()
    corners = xyxy_from_cxcywh(default_boxes_cxcywh).astype(np.float32)
    if ignored_boxes is not None and len(ignored_boxes):
        overlap = pairwise_iou(ignored_boxes, corners).max(axis=0)
        target_labels[overlap > MATCH_IOU] = IGNORED
    if len(boxes) == 0:
        return Matches(target_labels, targets)
    iou = pairwise_iou(boxes, corners)
    best_object = iou.argmax(axis=0)
    best_iou = iou.max(axis=0)
    claimed = iou.argmax(axis=1)
    best_iou[claimed] = 2
    best_object[claimed] = np.arange(len(boxes))
    matched = best_iou > MATCH_IOU
    target_labels[matched] = labels[best_object[matched]]
    targets[matched] = cxcywh_from_xyxy(boxes)[best_object[matched]]
    return Matches(target_labels, targets)
