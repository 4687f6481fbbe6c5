"""The kernels: what is done with one tile, one block of sums, one group of results.

Pictures are (H, W, C) bytes without a border, C a multiple of 32. What lies outside is read from
`padding`, a row of C bytes of the zero point.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from ssd34.runtime.native.emit import F32, I8, I16, I32, I64, POINTER, Code, Value, vector
from ssd34.runtime.native.levels import Level
from ssd34.runtime.native.winograd import (
    INVERSE_OF_9,
    PATCH,
    PLACES,
    SHIFT,
    TILE,
    transform_inputs,
    transform_results,
    transform_weights,
)

CHANNELS = 32
"""Channels of a picture in memory are a multiple of it."""

ALIGN = 64
"""Bytes to which buffers are aligned."""

_BYTES, _WORDS = 4, 2
"""Numbers that one instruction multiplies and adds into a 32-bit sum."""

DIRECT, WINOGRAD, WEIGHTS, PLANES = 0, 1, 2, 3
INTEGERS = (
    "source", "target", "residual", "weights", "bias", "scale", "padding",
    "spread", "shares", "kind", "items", "per_item", "total", "across",
    "width", "height", "channels", "out_width", "out_height", "outputs",
    "kernel", "stride", "top", "left", "zero", "offsets", "plane",
)  # fmt: skip
_REALS = ("low", "high", "own", "other", "offset", "unused")
LAYER = np.dtype([(name, np.int64) for name in INTEGERS] + [(name, np.float32) for name in _REALS])
"""A convolution as the code reads it, one after the other in memory.

source, target, residual: addresses of pictures; residual is 0 without an addition.
weights, bias, scale: addresses, see `convolution.pack_weights`; bias and scale are (outputs,) int32
and float32.
padding: address of a row of zero points of the source.
shares: 1 where threads share all transformed weights, at the address `spread`; 0 where each
transforms those of one block at a time.
kind: `DIRECT`, `WINOGRAD`, `PLANES` (by AMX), or `WEIGHTS`: only transform the weights of the
layer behind it.
items, per_item, total: the work, in tiles, in results, or, with AMX, in rows of results; across:
how many tiles, results or positions there are in a row.
width, height, channels; out_width, out_height, outputs: of source and target.
kernel, stride, top, left: the window; the last two are its padding.
zero, low, high: zero point of the results, and the limits 0 - zero and 255 - zero.
own, other, offset: of the addition, see `_Finish`.
offsets, plane: with AMX, address of the steps' offsets, and bytes of a plane, see `amx.Planes`.
"""


def read(layer: Value, name: str) -> Value:
    """A field of a layer."""
    if name in INTEGERS:
        return (layer + 8 * INTEGERS.index(name)).load(I64, align=8)
    return (layer + 8 * len(INTEGERS) + 4 * _REALS.index(name)).load(F32, align=4)


def read_address(layer: Value, name: str) -> Value:
    """A field that is an address."""
    return (layer + 8 * INTEGERS.index(name)).load(POINTER, align=8)


class Fields:
    """A layer's fields, each read once at the function's beginning."""

    def __init__(self, layer: Value) -> None:
        self.layer = layer
        self._values = {name: read(layer, name) for name in INTEGERS}

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def pointer(self, name: str) -> Value:
        """A field that is an address."""
        return read_address(self.layer, name)


def write_kernels(code: Code, level: Level) -> None:
    """Write all that a level uses; those of AMX itself are in `amx`."""
    for adds in (False, True):
        _write_plain_results(code, level, adds=adds)
    if level.amx:
        return
    for edge in (False, True):
        _write_tile(code, level, edge=edge)
        for adds in (False, True):
            _write_tile_results(code, level, edge=edge, adds=adds)
    _write_block_weights(code, level)
    for quantities in {_WORDS, per_step(level, winograd=False)}:
        for rows in heights(level):
            _write_products(code, level, rows, quantities)
        _write_all_products(code, level, quantities)
    _write_window(code, words=not level.multiplies_bytes)


def per_step(level: Level, *, winograd: bool) -> int:
    """Inputs that one instruction multiplies and adds: 2 words or 4 bytes."""
    return _BYTES if level.multiplies_bytes and not winograd else _WORDS


def heights(level: Level) -> tuple[int, ...]:
    """Rows of the blocks of sums that there are kernels for: as many as registers hold, and fewer
    for what is left."""
    return tuple(sorted({level.rows, level.rows // 2, 4, 2, 1}, reverse=True))


def _write_tile(code: Code, level: Level, *, edge: bool) -> None:
    """``tile``: B' d B of one tile, all channels: 36 places, ``stride`` bytes apart.

    ``source`` is the patch's first pixel. ``tile_edge`` is for patches that reach out of the
    picture: y and x are where they begin, which may be below 0.
    """
    lanes = 2 * level.lanes
    words, size = vector(I16, lanes), 2 * lanes
    parameters = {"source": POINTER, "target": POINTER, "row": I64, "channels": I64, "stride": I64}
    outside = {"padding": POINTER, "y": I64, "x": I64, "height": I64, "width": I64}
    p = code.function("tile_edge" if edge else "tile", parameters | (outside if edge else {}))
    pixels = {}
    for i in range(PATCH):
        for j in range(PATCH):
            pixel = p["source"] + p["row"] * i + p["channels"] * j
            if edge:
                inside = (p["y"] + i).within(p["height"]) & (p["x"] + j).within(p["width"])
                pixel = code.select(inside, pixel, p["padding"])
            pixels[i, j] = pixel
    half = code.variable(ir.ArrayType(words, PLACES), align=ALIGN)
    with code.loop(p["channels"] // lanes) as c:
        for j in range(PATCH):
            column = [
                (pixels[i, j] + c * lanes).load(vector(I8, lanes)).to(words, signed=False)
                for i in range(PATCH)
            ]
            for i, value in enumerate(transform_inputs(column)):
                (half + (i * PATCH + j) * size).store(value, align=size)
        for i in range(PATCH):
            row = [(half + (i * PATCH + j) * size).load(words, align=size) for j in range(PATCH)]
            for j, value in enumerate(transform_inputs(row)):
                to = p["target"] + c * size + p["stride"] * (i * PATCH + j)
                to.store(value, align=size)
    code.finish()


def _write_block_weights(code: Code, level: Level) -> None:
    """``block_weights``: G g G' of a block of outputs: from bytes [9][steps][outputs][2] to words
    [36][steps][outputs][2], places ``stride`` bytes apart."""
    lanes = 2 * level.lanes
    words = vector(I16, lanes)
    p = code.function(
        "block_weights", {"source": POINTER, "target": POINTER, "steps": I64, "stride": I64}
    )
    plane = p["steps"] * (2 * level.outputs)
    with code.loop(plane // lanes) as k:
        columns = []
        for j in range(3):
            places = (p["source"] + plane * (3 * i + j) + k * lanes for i in range(3))
            columns.append(transform_weights([x.load(vector(I8, lanes)).to(words) for x in places]))
        for i in range(PATCH):
            for j, value in enumerate(transform_weights([column[i] for column in columns])):
                to = p["target"] + k * (2 * lanes) + p["stride"] * (i * PATCH + j)
                to.store(value, align=2 * lanes)
    code.finish()


def _write_products(code: Code, level: Level, rows: int, quantities: int) -> None:
    """``products_Q_R``: sums[r][o] = the sum over k of a[r][k] * b[k][o], R rows, one block of
    outputs. Each step takes Q numbers of each row, 4 bytes; sums stay in registers to the end.

    Meanwhile what comes next is brought near: the weights behind these, and the rows ``ahead``.
    Hardware does not see that 14 rows which are read side by side are one piece of memory.
    """
    lanes = level.lanes
    sums, numbers = vector(I32, lanes), vector(I16, 2 * lanes)
    p = code.function(f"products_{quantities}_{rows}", _PRODUCTS)
    total = [[code.variable(sums, align=ALIGN) for _ in range(2)] for _ in range(rows)]
    for row in total:
        for place in row:
            place.store(code.value(0, sums))
    starts = [p["a"] + p["a_row"] * r for r in range(rows)]
    next_weights = p["b"] + p["steps"] * (8 * lanes) + ALIGN
    with code.loop(p["steps"]) as k:
        b = []
        for v in range(2):
            by = k * (8 * lanes) + v * (4 * lanes)
            b.append((p["b"] + by).load(numbers, align=4 * lanes))
            if v * 4 * lanes % ALIGN == 0:
                code.prefetch(next_weights + by)
        code.prefetch(p["ahead"] + k * (4 * rows))
        for start, row in zip(starts, total, strict=True):
            a = code.value((start + k * 4).load(I32, align=4), sums)
            for place, weights in zip(row, b, strict=True):
                before = place.load(sums)
                place.store(_multiply_add(code, level, quantities, before, a, weights))
    for r, row in enumerate(total):
        for v, place in enumerate(row):
            to = p["sums"] + r * (8 * lanes) + v * (4 * lanes)
            to.store(place.load(sums), align=4 * lanes)
    code.finish()


_PRODUCTS = {
    "a": POINTER, "b": POINTER, "sums": POINTER, "steps": I64, "a_row": I64, "ahead": POINTER
}  # fmt: skip


def _multiply_add(
    code: Code, level: Level, quantities: int, before: Value, a: Value, b: Value
) -> Value:
    """before + a * b in each lane: 2 words by VPDPWSSD, or VPMADDWD and an addition, which LLVM
    joins where it can; or 4 bytes by VPDPBUSD."""
    lanes = level.lanes
    if quantities == _BYTES:
        numbers = vector(I8, 4 * lanes)
        arguments = [before, a.as_bits(numbers), b.as_bits(numbers)]
        return code.intrinsic(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", before.type, arguments)
    name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return before + code.intrinsic(name, before.type, [a.as_bits(b.type), b])


def _write_all_products(code: Code, level: Level, quantities: int) -> None:
    """``products_Q``: any number of rows, as many at once as registers hold."""
    p = code.function(f"products_{quantities}", _PRODUCTS | {"rows": I64})
    a, sums, left = p["a"], p["sums"], p["rows"]
    for rows in heights(level):
        blocks = left // rows
        a_block, sums_block = p["a_row"] * rows, 4 * level.outputs * rows
        with code.loop(blocks) as k:
            to = sums + k * sums_block
            name = f"products_{quantities}_{rows}"
            code.call(name, a + k * a_block, p["b"], to, p["steps"], p["a_row"], p["ahead"])
        a, sums, left = a + blocks * a_block, sums + blocks * sums_block, left - blocks * rows
    code.finish()


_RESULTS = {
    "sums": POINTER, "target": POINTER, "residual": POINTER, "bias": POINTER, "scale": POINTER,
    "layer": POINTER,
}  # fmt: skip


def _write_tile_results(code: Code, level: Level, *, edge: bool, adds: bool) -> None:
    """``tile_results``: A m A' of one tile, divided by 576, as bytes; one register of outputs.

    ``row`` and ``pixel`` are the target's bytes from row to row and from pixel to pixel; ``rows``
    and ``columns``, how many of the results exist, matter in ``tile_results_edge`` only.
    """
    sums = vector(I32, level.lanes)
    name = "tile_results" + "_edge" * edge + "_adds" * adds
    more = {"stride": I64, "row": I64, "pixel": I64, "rows": I64, "columns": I64}
    p = code.function(name, _RESULTS | more)
    finish = _Finish(code, level, p, adds=adds)
    columns = []
    for j in range(PATCH):
        places = (p["sums"] + p["stride"] * (i * PATCH + j) for i in range(PATCH))
        columns.append(transform_results([x.load(sums, align=4 * level.lanes) for x in places]))
    for i in range(TILE):
        for j, value in enumerate(transform_results([column[i] for column in columns])):
            by = p["row"] * i + p["pixel"] * j
            total = (value * INVERSE_OF_9) >> SHIFT
            if not edge:
                finish(total, by)
                continue
            with code.when((p["rows"] > i) & (p["columns"] > j)):
                finish(total, by)
    code.finish()


def _write_plain_results(code: Code, level: Level, *, adds: bool) -> None:
    """``plain_results``: one block of outputs of ``pixels`` that follow each other, as bytes."""
    sums = vector(I32, level.lanes)
    more = {"pixel": I64, "pixels": I64}
    p = code.function("plain_results" + "_adds" * adds, _RESULTS | more)
    finish = _Finish(code, level, p, adds=adds)
    with code.loop(p["pixels"]) as k:
        total = (p["sums"] + k * (4 * level.outputs)).load(sums, align=4 * level.lanes)
        finish(total, p["pixel"] * k)
    code.finish()


class _Finish:
    """From a convolution's sums to bytes, as ONNX Runtime rounds; all in float32:

    step = zero + rint(clip((sum + bias) * scale, 0 - zero, 255 - zero))

    and where an addition follows: clip(rint(fma(step, own, fma(residual, other, offset))), 0, 255),
    own and other being the scales of both divided by the sum's, and offset what their zero points
    make of it.
    """

    def __init__(self, code: Code, level: Level, p: dict[str, Value], *, adds: bool) -> None:
        self.code, self.level, self.p, self.adds = code, level, p, adds
        self.whole, self.real = vector(I32, level.lanes), vector(F32, level.lanes)
        self.bias = p["bias"].load(self.whole, align=4)
        self.scale = p["scale"].load(self.real, align=4)
        names = ("low", "high", *(("own", "other", "offset") if adds else ()))
        self.factors = {name: code.value(read(p["layer"], name), self.real) for name in names}
        self.zero = code.value(read(p["layer"], "zero").to(I32), self.whole)

    def __call__(self, total: Value, by: Value) -> None:
        """Write to the target, ``by`` bytes behind its start."""
        code, factors = self.code, self.factors
        value = (total + self.bias).to(self.real) * self.scale
        value = code.smaller(code.larger(value, factors["low"]), factors["high"])
        step = value.to(self.whole) + self.zero
        narrow = vector(I8, self.level.lanes)
        if self.adds:
            residual = (self.p["residual"] + by).load(narrow).to(self.whole, signed=False)
            inner = self._fma(residual.to(self.real), factors["other"], factors["offset"])
            value = self._fma(step.to(self.real), factors["own"], inner)
            low, high = (code.value(float(x), self.real) for x in (0, 255))
            step = code.smaller(code.larger(value, low), high).to(self.whole)
        (self.p["target"] + by).store(step.to(narrow))

    def _fma(self, *arguments: Value) -> Value:
        return self.code.intrinsic("llvm.fma", self.real, [*arguments], suffix=(self.real,))


def _write_window(code: Code, *, words: bool) -> None:
    """``window``: what one result of a direct convolution is made from, side by side:
    [kernel][kernel][channels], as bytes or words. y and x are where the window begins."""
    p = code.function("window", {"layer": POINTER, "y": I64, "x": I64, "target": POINTER})
    layer = p["layer"]
    names = ("width", "height", "channels", "kernel")
    width, height, channels, kernel = (read(layer, name) for name in names)
    source, padding = (read_address(layer, name) for name in ("source", "padding"))
    size = 2 if words else 1
    with code.loop(kernel) as i, code.loop(kernel) as j:
        y, x = p["y"] + i, p["x"] + j
        inside = y.within(height) & x.within(width)
        pixel = code.select(inside, source + (y * width + x) * channels, padding)
        to = p["target"] + (i * kernel + j) * (channels * size)
        with code.loop(channels // CHANNELS) as c:
            numbers = (pixel + c * CHANNELS).load(vector(I8, CHANNELS))
            if words:
                numbers = numbers.to(vector(I16, CHANNELS), signed=False)
            (to + c * (CHANNELS * size)).store(numbers)
    code.finish()
