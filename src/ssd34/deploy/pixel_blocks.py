"""The first convolution on blocks of 2 x 2 pixels: the same sums of twelve channels, not three.

A window of 7 x 7 pixels that moves by two pixels is one of 4 x 4 blocks that moves by one block;
the row and the column that it has too many get weights of zero. ONNX Runtime's fast int8
convolution takes channels by fours; three go a slower way.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ssd34.deploy.graph import GraphBuilder
from ssd34.deploy.int8_plan import Int8Conv
from ssd34.deploy.network import Layer

_SIDE = 2
"""Pixels on each side of a block, and the stride of the convolution."""


def in_blocks(layer: Layer, conv: Int8Conv, *, side: int) -> tuple[Layer, Int8Conv]:
    """A convolution of pixels as one of blocks.

    Args:
        layer: its window, which moves by two pixels.
        conv: its numbers, weight (O, C, K, K).
        side: of the picture in pixels, even.

    Returns:
        The window in blocks and the numbers with the weight (O, 4 * C, B, B), B blocks a window;
        channels are in the order of a block's row, column and channel.
    """
    assert layer.stride == _SIDE
    assert side % _SIDE == 0
    outputs, channels, kernel, _ = conv.weight.shape
    spare = layer.padding % _SIDE  # pixels of the window's first block that it does not reach
    blocks = -(-(spare + kernel) // _SIDE)
    reached = slice(spare, spare + kernel)
    pixels: NDArray[np.int8] = np.zeros((outputs, channels, *[blocks * _SIDE] * 2), np.int8)
    pixels[:, :, reached, reached] = conv.weight
    parts = pixels.reshape(outputs, channels, blocks, _SIDE, blocks, _SIDE)
    weight = parts.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, -1, blocks, blocks)

    before = (layer.padding + spare) // _SIDE
    places = (side + 2 * layer.padding - kernel) // _SIDE + 1
    window = dataclasses.replace(
        layer, kernel=blocks, stride=1, padding=before,
        end_padding=places - 1 + blocks - side // _SIDE - before,
    )  # fmt: skip
    return window, dataclasses.replace(conv, weight=weight)


def blocks_of_planes(builder: GraphBuilder, planes: str) -> str:
    """(N, C, S, S) as (N, 4 * C, S / 2, S / 2): float32, as older ONNX Runtimes take no bytes."""
    return builder.node("SpaceToDepth", "input.blocks", [planes], blocksize=_SIDE)


def blocks_of_bytes(builder: GraphBuilder, pixels: str, *, side: int) -> str:
    """(N, S, S, C) bytes as (N, 4 * C, S / 2, S / 2): pairs of a row lie together already."""
    rows = []
    half = builder.integers("input.row.shape", 0, 0, side // _SIDE, -1)
    for row in range(_SIDE):
        every_second = builder.slice(f"input.row.{row}", pixels, row, side, axis=1, step=_SIDE)
        rows.append(builder.node("Reshape", f"input.row.{row}.pairs", [every_second, half]))
    blocks = builder.node("Concat", "input.blocks", rows, axis=3)
    return builder.node("Transpose", "input.planes", [blocks], perm=[0, 3, 1, 2])
