"""An int8 network that reads a picture's bytes: the normalisation lies in the first convolution.

A byte is a step of scale 1/255 and zero point 0, so nothing is rounded. But a convolution pads with
the zero point, black, and the network was trained with the mean colour around the picture, which
one zero point for three channels cannot be. So the graph puts the colour there.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ssd34.core.preprocess import MEAN, STD
from ssd34.deploy.graph.builder import GraphBuilder
from ssd34.deploy.graph.layers import Affine, Conv, Layer

BYTES = Affine(np.float32(1 / 255), np.uint8(0))
"""A picture's bytes as steps."""

_MEAN = np.array(MEAN).reshape(3, 1, 1)
_STD = np.array(STD).reshape(3, 1, 1)


def fold_normalisation(layer: Layer) -> Layer:
    """A convolution of normalised values as one of bytes / 255, with the padding already there."""
    weight = layer.arrays.weight / _STD
    bias = layer.arrays.bias - (weight * _MEAN).sum(axis=(1, 2, 3))
    conv = Conv(weight.astype(np.float32), bias.astype(np.float32))
    return dataclasses.replace(layer, conv=conv, padding=0)


def convert_means_to_bytes(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """`CalibrationStatistics.window_means` of normalised values for bytes / 255."""
    return np.asarray(means * _STD + _MEAN, np.float64)


def add_frame(builder: GraphBuilder, image: str, *, side: int, width: int) -> str:
    """Add a frame of the mean colour, `width` pixels wide, around ``image`` (N, side, side, 3)
    uint8; returns the name of the larger picture."""
    colour = np.rint(np.array(MEAN) * 255).astype(np.uint8)
    shape = builder.node("Shape", "input.shape", [image])
    batch = builder.slice("input.batch", shape, 0, 1, axis=0)
    ones = builder.integers("input.ones", 1, 1, 1)
    batch_shape = builder.node("Concat", "input.batch.shape", [batch, ones], axis=0)
    larger = image
    for name, size, axis in (
        ("columns", (1, side, width, 3), 2),
        ("rows", (1, width, side + 2 * width, 3), 1),
    ):
        strip = builder.constant(f"input.{name}.colour", np.broadcast_to(colour, size))
        strips = builder.node("Expand", f"input.{name}.frame", [strip, batch_shape])
        larger = builder.node("Concat", f"input.{name}", [strips, larger, strips], axis=axis)
    return larger


def add_planes(builder: GraphBuilder, pixels: str) -> str:
    """(N, S, S, 3) as (N, 3, S, S)."""
    return builder.node("Transpose", "input.planes", [pixels], perm=[0, 3, 1, 2])
