"""Areas, overlaps and layouts of boxes, in whatever unit the caller uses throughout.

Boxes are xyxy (left, top, right, bottom) unless a name says otherwise: ``cxcywh`` is centre and
size, ``xywh`` is left, top and size, the layout of COCO files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]


def area(boxes: Boxes) -> Boxes:
    """Areas (...) of boxes (..., 4), without clamping: a box turned inside out may be negative."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Boxes, b: Boxes, *, clamp: bool = True) -> Boxes:
    """Intersection over union (N, M) of each of `a` (N, 4) with each of `b` (M, 4), in their dtype;
    0 where both areas are 0.

    Without `clamp` it repeats a slip of the inference benchmark's code: two boxes apart along both
    axes get a positive overlap.
    """
    # One coordinate at a time: NumPy is several times slower along a last axis of two.
    width = _overlap(a, b, 0, clamp=clamp)
    overlap = width * _overlap(a, b, 1, clamp=clamp)
    union = area(a)[:, None] + area(b)[None, :] - overlap
    iou: Boxes = np.divide(overlap, union, out=np.zeros_like(overlap), where=union != 0)
    return iou


def pairwise_coverage(a: Boxes, b: Boxes) -> Boxes:
    """Which share (N, M) of each of `b` (M, 4) each of `a` (N, 4) covers, in their dtype; 0 where
    the area of b is 0."""
    overlap = _overlap(a, b, 0, clamp=True) * _overlap(a, b, 1, clamp=True)
    areas = np.broadcast_to(area(b)[None, :], overlap.shape)
    covered: Boxes = np.divide(overlap, areas, out=np.zeros_like(overlap), where=areas != 0)
    return covered


def _overlap(a: Boxes, b: Boxes, axis: int, *, clamp: bool) -> Boxes:
    """Length (N, M) that boxes share along x (0) or y (1); below 0 where apart, unless clamped."""
    start = np.maximum(a[:, axis, None], b[None, :, axis])
    end = np.minimum(a[:, axis + 2, None], b[None, :, axis + 2])
    extent: Boxes = np.subtract(end, start, out=end)
    return np.maximum(extent, 0, out=extent) if clamp else extent


def clip(boxes: Boxes, *, width: float, height: float) -> Boxes:
    """Boxes (..., 4) cut to the rectangle 0, 0, width, height."""
    limit = np.array([width, height, width, height], boxes.dtype)
    return np.clip(boxes, 0, limit)


def cxcywh_from_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) xyxy to centre and size."""
    size = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([boxes[..., :2] + size / 2, size], axis=-1)


def xyxy_from_cxcywh(boxes_cxcywh: Boxes) -> Boxes:
    """(..., 4) centre and size to xyxy."""
    half = boxes_cxcywh[..., 2:] / 2
    centre = boxes_cxcywh[..., :2]
    return np.concatenate([centre - half, centre + half], axis=-1)


def xywh_from_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) xyxy to left, top and size."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xyxy_from_xywh(boxes_xywh: Boxes) -> Boxes:
    """(..., 4) left, top and size to xyxy."""
    return np.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], axis=-1)
