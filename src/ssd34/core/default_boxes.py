"""The default boxes: the fixed grid of reference boxes that the network refines."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ssd34.core.spec import ModelSpec


def default_boxes_cxcywh(spec: ModelSpec) -> NDArray[np.float32]:
    """The default boxes of a network, in the order of its outputs.

    Source: SSD paper, section 2.2, with the scales and the order of the training benchmark:
    level, then box shape, then row, then column.

    Returns:
        (A, 4) float32, centre x, centre y, width, height in fractions of the picture,
        clamped to 0..1.
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
