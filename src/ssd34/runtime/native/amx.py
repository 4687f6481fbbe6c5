"""Convolutions by AMX: registers that are matrices, and how numbers lie in memory for them.

An AMX register has 16 rows of 64 bytes. One instruction, TDPBUSD, adds to a register of sums what
a register of inputs (bytes without a sign) and one of weights (bytes with one) give; it wraps:

    sums[position][output] += the sum over k < 16, i < 4 of
                              inputs[position][4 k + i] * weights[k][output][i]

That are 16 * 16 * 64 products, 16 times those of VPDPBUSD, and there is no such instruction for 16
bits. So convolutions are computed directly, as the definition has it, with S the stride:

    result[y][x] = the sum over i, j < kernel and all channels of
                   picture[S y + i - top][S x + j - left] * weight[i][j]

For each step, one (i, j) and 64 channels, the inputs of 16 results have to be 16 rows of memory at
equal distances. They are where the picture, its border included, is taken apart: plane (p, q) has
the rows p, p + S, ... and the columns q, q + S, ... of it, 64 channels beside each other. What
result (y, x) needs of (i, j) is in plane (i % S, j % S) at row y + i // S, column x + j // S.
Counted along a plane's rows, of `across` columns, the result is at y * across + x, and

    its input = the result's position + (i // S) * across + j // S

whatever the position: 16 results that follow each other need 16 inputs that do, over the ends of
rows, too. Only positions beyond a row's last result are computed for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.runtime.native.emit import I8, I64, NOTHING, POINTER, Code, Value, vector
from ssd34.runtime.native.kernels import Fields
from ssd34.runtime.native.levels import Level

ROWS, BYTES = 16, 64
"""Of a register."""

POSITIONS = 2 * ROWS
"""Results whose sums for a block of outputs are computed at once."""

GROUP = 4 * POSITIONS
"""Results that are multiplied with the same weights before the next ones."""

STEPS = 9
"""After so many the next results take their turn: the weights of these steps, 18 KB, and the sums
of a group, 16 KB, stay in the first-level cache."""

STEP_BYTES = 2 * ROWS * BYTES
"""Weights of a step for a block of outputs."""

_ITEM_BYTES = 2**19
"""Planes of an item of work, which stay in the second-level cache (2 MB where there is AMX)."""


@dataclass(frozen=True)
class Planes:
    """How a picture is taken apart for one convolution.

    Attributes:
        kernel, stride: of the window.
        blocks: of 64 channels.
        across: columns of a plane.
    """

    kernel: int
    stride: int
    blocks: int
    across: int

    @classmethod
    def of(cls, *, kernel: int, stride: int, channels: int, out_width: int) -> Planes:
        """For results of a width."""
        return cls(kernel, stride, -(-channels // BYTES), out_width + (kernel - 1) // stride)

    @classmethod
    def of_layer(cls, layer: Any) -> Planes:
        """For a record of `kernels.LAYER`."""
        return cls.of(**{n: int(layer[n]) for n in ("kernel", "stride", "channels", "out_width")})

    @property
    def most_rows(self) -> int:
        """Rows of results in an item of work."""
        return max(1, _ITEM_BYTES // (self.count * self.across * BYTES))

    @property
    def count(self) -> int:
        """Of planes, each with 64 channels."""
        return int(min(self.kernel, self.stride) ** 2 * self.blocks)

    def size(self, rows: int) -> int:
        """Bytes of a plane for so many rows of results, and for those that fill the last 32."""
        reach = (self.kernel - 1) // self.stride
        whole = -(-rows * self.across // POSITIONS) * POSITIONS
        return (whole + reach * (self.across + 1)) * BYTES

    def offsets(self, rows: int) -> NDArray[np.int64]:
        """From a result's position to the inputs of each step, in bytes: (blocks * kernel^2,)."""
        phases = min(self.kernel, self.stride)
        q, i, j = np.indices((self.blocks, self.kernel, self.kernel))
        plane = (i % self.stride * phases + j % self.stride) * self.blocks + q
        position = i // self.stride * self.across + j // self.stride
        return np.asarray(plane * self.size(rows) + position * BYTES, np.int64).reshape(-1)


def pack_weights(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights in the order of the steps, zeros where inputs are missing.

    Args:
        weight: (O, I, K, K), O a multiple of 32.

    Returns:
        (O / 32, steps, 2, 16, 16, 4): two registers a step, each of 16 outputs.
    """
    outputs, inputs, kernel, _ = weight.shape
    whole = np.pad(weight, ((0, 0), (0, -inputs % BYTES), (0, 0), (0, 0)))
    split = whole.reshape(outputs // 32, 2, 16, -1, ROWS, 4, kernel**2)
    packed = split.transpose(0, 3, 6, 1, 4, 2, 5)
    return np.ascontiguousarray(packed).reshape(outputs // 32, -1, 2, ROWS, 16, 4)


def write_amx_kernels(code: Code, level: Level) -> None:
    """``amx_products`` and ``planes``."""
    _write_products(code, level)
    _write_planes(code)


def write_configuration(code: Code) -> None:
    """Make all 8 registers 16 rows of 64 bytes, for this thread: palette 1, and from byte 16 on the
    bytes of a row, 16 bits each, from byte 48 on the rows, 8 bits each."""
    row_bytes, rows = (
        int.from_bytes(number.to_bytes(size, "little") * (8 // size), "little")
        for number, size in ((BYTES, 2), (ROWS, 1))
    )
    place = code.variable(vector(I64, 8), align=64)
    for number, value in enumerate((1, 0, row_bytes, row_bytes, 0, 0, rows, 0)):
        (place + 8 * number).store(value, align=8)
    code.intrinsic("llvm.x86.ldtilecfg", NOTHING, [place])


def write_release(code: Code) -> None:
    """Empty the registers, so that the system need not keep them."""
    code.intrinsic("llvm.x86.tilerelease", NOTHING, [])


def _write_products(code: Code, level: Level) -> None:
    """``amx_products``: sums[p][o] of 32 positions and a block of 32 outputs, some steps of them;
    ``done`` steps are in the sums already.

    2 x 2 registers of sums, so that 4 are loaded for 4 products: one alone would need 2.
    """
    p = code.function(
        "amx_products",
        {
            "a": POINTER, "offsets": POINTER, "b": POINTER, "sums": POINTER,
            "steps": I64, "done": I64,
        },
    )  # fmt: skip
    row = 4 * level.outputs
    sums = {2 * t + v: p["sums"] + (t * ROWS * row + v * BYTES) for t in range(2) for v in range(2)}
    first, second, left, right = 4, 5, 6, 7  # 16 positions each; 16 outputs each
    with code.when(p["done"].equals(0)):
        for number in sums:
            _call(code, "tilezero", number)
    with code.when(p["done"] > 0):
        for number, place in sums.items():
            _call(code, "tileloadd64", number, place=place, row=row)
    with code.loop(p["steps"]) as k:
        a = p["a"] + (p["offsets"] + k * 8).load(I64, align=8)
        b = p["b"] + k * STEP_BYTES
        _call(code, "tileloadd64", first, place=a, row=BYTES)
        _call(code, "tileloadd64", left, place=b, row=BYTES)
        _call(code, "tdpbusd", 0, first, left)
        _call(code, "tileloadd64", second, place=a + ROWS * BYTES, row=BYTES)
        _call(code, "tdpbusd", 2, second, left)
        _call(code, "tileloadd64", right, place=b + ROWS * BYTES, row=BYTES)
        _call(code, "tdpbusd", 1, first, right)
        _call(code, "tdpbusd", 3, second, right)
    for number, place in sums.items():
        _call(code, "tilestored64", number, place=place, row=row)
    code.finish()


def _call(code: Code, name: str, *numbers: int, place: Value | None = None, row: int = 0) -> None:
    """An instruction on registers, and on memory with so many bytes from row to row."""
    registers = [code.value(number, I8) for number in numbers]
    memory = [] if place is None else [place, code.value(row, I64)]
    code.intrinsic(f"llvm.x86.{name}", NOTHING, [*registers, *memory])


def _write_planes(code: Code) -> None:
    """``planes``: take apart what some rows of results need of a layer's picture, the border from
    its row of zero points: [rows % stride][columns % stride][channels / 64][positions][64].

    Of a last block with 32 channels the others are left as they are: their weights are 0.
    """
    p = code.function("planes", {"layer": POINTER, "first": I64, "rows": I64, "target": POINTER})
    f = Fields(p["layer"])
    channels, stride, across = f["channels"], f["stride"], f["across"]
    phases = code.smaller(f["kernel"], stride)
    blocks, half = (channels + 32) // BYTES, BYTES // 2
    reach = (f["kernel"] - 1) // stride
    with (
        code.loop(phases) as i,
        code.loop(phases) as j,
        code.loop(p["rows"] + reach) as row,
        code.loop(across) as column,
    ):
        y, x = (p["first"] + row) * stride + i - f["top"], column * stride + j - f["left"]
        inside = y.within(f["height"]) & x.within(f["width"])
        pixel = code.select(
            inside, f.pointer("source") + (y * f["width"] + x) * channels, f.pointer("padding")
        )
        plane = (i * phases + j) * blocks * f["plane"]
        to = p["target"] + plane + (row * across + column) * BYTES
        with code.loop(channels // BYTES) as c:
            (to + c * f["plane"]).store((pixel + c * BYTES).load(vector(I8, BYTES)))
        with code.when((channels & half).equals(half)):
            last = channels // BYTES
            (to + last * f["plane"]).store((pixel + last * BYTES).load(vector(I8, half)))
    code.finish()
