"""A convolution in int8 as the program takes it: packed weights, and how its work is shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.runtime.native import amx
from ssd34.runtime.native.kernels import (
    ALIGN,
    CHANNELS,
    DIRECT,
    LAYER,
    PLANES,
    WEIGHTS,
    WINOGRAD,
    per_step,
)
from ssd34.runtime.native.levels import Level
from ssd34.runtime.native.winograd import PLACES, TILE, fits

_MANY_TILES = 128
"""From so many on all weights are transformed first, and tiles are taken in small groups whose
transformed inputs stay in the second-level cache."""

_SOME_TILES = 24
"""With so many for each thread, each transforms the weights of one block at a time and multiplies
them with all its tiles, so that these weights stay there."""

_WINDOWS = 2**19
"""Bytes of an item's windows in a direct convolution."""


@dataclass(frozen=True, eq=False)
class Addition:
    """A residual that is added behind a convolution; see `kernels._Finish`.

    Attributes:
        residual: name of the value that is added.
        own, other: scales of the convolution's results and of the residual, by that of the sum.
        offset: what the zero points make of it.
    """

    residual: str
    own: np.float32
    other: np.float32
    offset: np.float32


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of bytes, and an addition behind it.

    Attributes:
        name: of its node.
        source, target: names of the values that it reads and makes.
        weight: (O, I, K, K) int8.
        bias: (O,) int32.
        scale: (O,) float32, from sums to steps of the result.
        source_zero, target_zero: zero points.
        stride: of the window.
        pads: zeros at the top, left, bottom and right.
        addition: None: none.
    """

    name: str
    source: str
    target: str
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    source_zero: int
    target_zero: int
    stride: int
    pads: tuple[int, int, int, int]
    addition: Addition | None = None

    @property
    def names(self) -> dict[str, str]:
        """The values that it reads and makes, by the fields of `LAYER` that are their addresses."""
        names = {"source": self.source, "target": self.target}
        return names | ({"residual": self.addition.residual} if self.addition else {})

    def size_of_target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result."""
        kernel, (top, left, bottom, right) = self.weight.shape[2], self.pads
        return (
            (height + top + bottom - kernel) // self.stride + 1,
            (width + left + right - kernel) // self.stride + 1,
        )


class Packed:
    """A convolution's arrays for one instruction set, and its records without the addresses of
    pictures and of the memory for transformed weights.

    Attributes:
        records: (1,) `LAYER`, or (2,) where the first transforms the weights.
    """

    def __init__(
        self, conv: Convolution, level: Level, *, height: int, width: int, threads: int
    ) -> None:
        """
        Args:
            conv: what it computes.
            level: the instruction set.
            height, width: of its source.
            threads: that will share the work.
        """
        outputs, inputs, kernel, _ = conv.weight.shape
        out_height, out_width = conv.size_of_target(height, width)
        across, down = -(-out_width // TILE), -(-out_height // TILE)
        channels, padded = rounded_up(inputs, CHANNELS), rounded_up(outputs, CHANNELS)
        tiles = across * down
        own = _SOME_TILES * threads <= tiles < _MANY_TILES
        few = 2 * PLACES * channels * padded <= level.few_weights * tiles
        suits = not level.amx and kernel == 3 and conv.stride == 1 and fits(conv.weight)
        winograd = suits and (tiles >= _MANY_TILES or own or few)
        shares = winograd and not own
        planes = amx.Planes.of(
            kernel=kernel, stride=conv.stride, channels=channels, out_width=out_width
        )
        if winograd:
            kind, total, most = WINOGRAD, tiles, tiles if own else level.group
        elif level.amx:
            kind, total, most = PLANES, out_height, planes.most_rows
            across = planes.across
        else:
            kind, total, across = DIRECT, out_width * out_height, out_width
            most = _WINDOWS * per_step(level, winograd=False) // (4 * kernel**2 * channels)
        per_item = share(total, at_most=max(1, most), threads=threads)
        sums = conv.weight.sum(axis=(1, 2, 3), dtype=np.int64) * conv.source_zero
        bias = (conv.bias - sums).astype(np.int32)  # wraps, as the kernels do
        add = conv.addition
        self._arrays = {
            "weights": aligned(pack_weights(conv.weight, level, winograd=winograd)),
            "bias": aligned(padded_to(bias, padded)),
            "scale": aligned(padded_to(conv.scale, padded)),
            "padding": aligned(np.full(channels, conv.source_zero, np.uint8)),
            "offsets": planes.offsets(per_item),
        }
        values: dict[str, Any] = {
            **{name: array.ctypes.data for name, array in self._arrays.items()},
            "kind": kind, "shares": shares,
            "items": -(-total // per_item), "per_item": per_item,
            "total": total, "across": across, "width": width, "height": height,
            "channels": channels, "out_width": out_width, "out_height": out_height,
            "outputs": padded, "kernel": kernel, "stride": conv.stride, "top": conv.pads[0],
            "left": conv.pads[1], "zero": conv.target_zero, "low": -conv.target_zero,
            "high": 255 - conv.target_zero, "plane": planes.size(per_item),
            **({"own": add.own, "other": add.other, "offset": add.offset} if add else {}),
        }  # fmt: skip
        self.records = np.zeros(1 + shares, LAYER)
        for name, value in values.items():
            self.records[name] = value
        if shares:
            self.records["kind"][0], self.records["items"][0] = WEIGHTS, padded // level.outputs


def share(total: int, *, at_most: int, threads: int) -> int:
    """How much work an item holds, so that every thread gets as many items as the others."""
    items = rounded_up(-(-total // at_most), threads)
    return -(-total // min(items, total))


def pack_weights(weight: NDArray[np.int8], level: Level, *, winograd: bool) -> NDArray[Any]:
    """Weights in the order in which the kernels read them, zeros where channels are missing.

    Args:
        weight: (O, I, K, K).

    Returns:
        (O / B, K * K * I / Q, B, Q): blocks of B outputs, and the Q inputs of one step side by
        side; the window's places before its channels. Bytes, or words for direct convolutions
        where the instruction set multiplies no bytes. For AMX see `amx.pack_weights`.
    """
    outputs, inputs, kernel, _ = weight.shape
    padded = rounded_up(outputs, CHANNELS), rounded_up(inputs, CHANNELS)
    whole = np.zeros((*padded, kernel, kernel), np.int8)
    whole[:outputs, :inputs] = weight
    if level.amx:
        return amx.pack_weights(whole)
    each, block = per_step(level, winograd=winograd), level.outputs
    split = whole.transpose(0, 2, 3, 1).reshape(len(whole) // block, block, -1, each)
    packed = split.transpose(0, 2, 1, 3)
    words = not winograd and not level.multiplies_bytes
    return np.ascontiguousarray(packed, np.int16 if words else np.int8)


def padded_to(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Zeros behind the values."""
    return np.pad(values, (0, size - len(values)))


def rounded_up(number: int, step: int) -> int:
    """The next multiple."""
    return -(-number // step) * step


def empty(size: int) -> NDArray[np.uint8]:
    """So many bytes, aligned."""
    room = np.empty(size + ALIGN, np.uint8)
    start = -room.ctypes.data % ALIGN
    return room[start : start + size]


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins where kernels load whole registers."""
    room = empty(values.nbytes).view(values.dtype).reshape(values.shape)
    room[...] = values
    return room
