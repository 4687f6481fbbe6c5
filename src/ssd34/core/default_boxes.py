"""The default boxes, the fixed grid that the network refines, and the box coder: boxes to network
offsets and back. Source of the coder: SSD paper, equation 2."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xyxy_from_cxcywh
from ssd34.core.spec import ModelSpec


def default_boxes_cxcywh(spec: ModelSpec) -> NDArray[np.float32]:
    """The default boxes (A, 4) float32 of a network, in fractions of the picture, clamped to 0..1.

    Source: SSD paper, section 2.2, with the scales of the training benchmark, and its order, which
    is that of the outputs: level, then box shape, then row, then column.
    """
    levels = []
    for level, side in enumerate(spec.feature_sizes):
        step = spec.steps[level]
        cells = spec.image_size // step if spec.whole_steps else spec.image_size / step
        centres = (np.arange(side) + 0.5) / cells
        centre_y, centre_x = np.meshgrid(centres, centres, indexing="ij")
        for width, height in _box_shapes(spec, level):
            boxes = np.empty((side, side, 4))
            boxes[..., 0] = centre_x
            boxes[..., 1] = centre_y
            boxes[..., 2] = width
            boxes[..., 3] = height
            levels.append(boxes.reshape(-1, 4))
    return np.clip(np.concatenate(levels), 0, 1).astype(np.float32)


def _box_shapes(spec: ModelSpec, level: int) -> list[tuple[float, float]]:
    """(width, height) of the boxes at each cell of a level, in fractions of the picture."""
    small = spec.scales[level] / spec.image_size
    large = sqrt(small * spec.scales[level + 1] / spec.image_size)
    shapes = [(small, small), (large, large)]
    for ratio in spec.aspect_ratios[level]:
        wide, narrow = small * sqrt(ratio), small / sqrt(ratio)
        shapes += [(wide, narrow), (narrow, wide)]
    return shapes


CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def encode(
    boxes_cxcywh: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Offsets dx, dy, dw, dh (A, 4) float32 that turn each default box (A, 4) into the box beside
    it, (A, 4) float32 of sizes > 0."""
    size = default_boxes_cxcywh[:, 2:]
    centre = (boxes_cxcywh[:, :2] - default_boxes_cxcywh[:, :2]) / size / CENTRE_VARIANCE
    scale = np.log(boxes_cxcywh[:, 2:] / size) / SIZE_VARIANCE
    return np.concatenate([centre, scale], axis=1).astype(np.float32)


def decode(
    loc: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The boxes (A, 4) float32 xyxy, fractions of the picture and perhaps beyond, that offsets
    (4, A) float32, the network's coordinate-major output of one picture, stand for, with the
    default boxes (A, 4) float32."""
    offsets = loc.T
    size = default_boxes_cxcywh[:, 2:]
    centre = offsets[:, :2] * np.float32(CENTRE_VARIANCE) * size + default_boxes_cxcywh[:, :2]
    scaled = np.exp(offsets[:, 2:] * np.float32(SIZE_VARIANCE)) * size
    return xyxy_from_cxcywh(np.concatenate([centre, scaled], axis=1)).astype(np.float32, copy=False)
