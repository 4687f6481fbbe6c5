"""Which part of a picture, or of a canvas around it, training shows.

Source: SSD paper section 3.6 and the training benchmark's figures; `zoomed` is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ssd34.core.boxes import clip, pairwise_iou


def expanded(width: int, height: int, largest: float, rng: Generator) -> NDArray[np.float64]:
    """A window around the whole picture, up to `largest` times its size."""
    factor = rng.uniform(1, largest)
    left = -rng.uniform(0, width * (factor - 1))
    top = -rng.uniform(0, height * (factor - 1))
    return np.array([left, top, left + width * factor, top + height * factor])


def cropped(
    window: NDArray[np.float64],
    boxes: NDArray[np.float32],
    respected: NDArray[np.bool_],
    rng: Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A random part of the window and the boxes that count in it: those whose centre it holds, and
    all that are not respected.

    With equal chance the whole window is kept, or a part is asked for whose IoU with **all**
    boxes exceeds a bound. One attempt per draw, until one succeeds.
    """
    everything = np.arange(len(boxes))
    if not respected.any():
        return window, everything
    extent = window[2:] - window[:2]
    while True:
        bound = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)[rng.integers(7)]
        if bound is None:
            return window, everything
        w, h = rng.uniform(0.3, 1, 2)
        if not 0.5 <= w / h <= 2:
            continue
        left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
        part = np.tile(window[:2], 2) + np.array([left, top, left + w, top + h]) * np.tile(
            extent, 2
        )
        if bound > 0 and not (pairwise_iou(boxes[respected], part[None]) > bound).all():
            continue
        inside = centred_in(part, boxes)
        if inside[respected].any():
            return part, np.flatnonzero(inside | ~respected)


def zoomed(
    width: int,
    height: int,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    rng: Generator,
) -> NDArray[np.float64]:
    """A window in the picture around an object of a class drawn from those in it.

    The object's longer side takes a quarter to three quarters of the window, whose sides are at
    least a fifth of the picture's.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        boxes: (N, 4) float32 xyxy in pixels, N > 0.
        labels: (N,) their classes.
        rng: the source of randomness.
    """
    label = rng.choice(np.unique(labels))
    box = boxes[rng.choice(np.flatnonzero(labels == label))].astype(np.float64)
    left, top, right, bottom = clip(box, width=width, height=height)
    side = max(right - left, bottom - top) / rng.uniform(0.25, 0.75)
    stretch = np.exp(rng.uniform(-0.4, 0.4))
    sides = []
    for low, high, extent, wanted in (
        (left, right, width, side * stretch),
        (top, bottom, height, side / stretch),
    ):
        span = min(max(wanted, high - low, extent / 5), extent)
        most = min(low, extent - span)
        # One rounding may put them the wrong way round.
        first = rng.uniform(min(max(0.0, high - span), most), most)
        sides.append((first, first + span))
    return np.array(sides).T.reshape(4)


def centred_in(window: NDArray[np.float64], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their centre in the window (4,)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((centres > window[:2]) & (centres < window[2:])).all(axis=1))
