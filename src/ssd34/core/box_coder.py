"""Boxes to network offsets and back.

Source: SSD paper, equation 2, with the variances 0.1 (centre) and 0.2 (size).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xyxy_from_cxcywh

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def encode(
    boxes_cxcywh: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Offsets that turn each default box into the box beside it.

    Args:
        boxes_cxcywh: (A, 4) float32, fractions of the picture, sizes > 0.
        default_boxes_cxcywh: (A, 4) float32.

    Returns:
        (A, 4) float32: dx, dy, dw, dh.
    """
    size = default_boxes_cxcywh[:, 2:]
    centre = (boxes_cxcywh[:, :2] - default_boxes_cxcywh[:, :2]) / size / CENTRE_VARIANCE
    scale = np.log(boxes_cxcywh[:, 2:] / size) / SIZE_VARIANCE
    return np.concatenate([centre, scale], axis=1).astype(np.float32)


def decode(
    loc: NDArray[np.float32], default_boxes_cxcywh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The boxes that raw network offsets stand for.

    Args:
        loc: (4, A) float32, the network's coordinate-major output of one picture.
        default_boxes_cxcywh: (A, 4) float32.

    Returns:
        (A, 4) float32 xyxy, fractions of the picture; may reach outside 0..1.
    """
    offsets = loc.T
    size = default_boxes_cxcywh[:, 2:]
    centre = offsets[:, :2] * np.float32(CENTRE_VARIANCE) * size + default_boxes_cxcywh[:, :2]
    scaled = np.exp(offsets[:, 2:] * np.float32(SIZE_VARIANCE)) * size
    return xyxy_from_cxcywh(np.concatenate([centre, scaled], axis=1)).astype(np.float32, copy=False)
