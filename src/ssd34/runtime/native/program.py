"""The program: it takes layer after layer and shares each one's work among threads."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import binding

from ssd34.runtime.native import amx
from ssd34.runtime.native.emit import I64, POINTER, Code, Value
from ssd34.runtime.native.kernels import (
    ALIGN,
    DIRECT,
    LAYER,
    PLANES,
    WEIGHTS,
    WINOGRAD,
    Fields,
    per_step,
    read,
    write_kernels,
)
from ssd34.runtime.native.levels import Level
from ssd34.runtime.native.winograd import PATCH, PLACES, TILE

COUNTERS = 128
"""Bytes of a layer's two counters, each in a cache line of its own: work taken, and work done."""

_SPINS = 2000
"""Looks at a counter before a waiting thread lets others run."""


@dataclass(frozen=True)
class Program:
    """Compiled code, ready to run.

    Attributes:
        run: compute layers: their address (`LAYER`), how many they are, the address of `COUNTERS`
            bytes for each, all zero, and of scratch memory of this thread's own. Each thread of a
            team calls it once, with the same first three; all return when everything is done. A
            thread that comes late finds less to do. The interpreter's lock is not held.
        engine: what owns the memory that the code is in.
    """

    run: Callable[[int, int, int, int], None]
    engine: binding.ExecutionEngine


@cache
def compile_program(level: Level) -> Program:
    """The program for one instruction set; takes some 0.7 s, once."""
    module, machine = _optimize(level)
    binding.add_symbol(_YIELD, _address_of_yield())
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address, number = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(None, address, number, address, address)
    return Program(kind(engine.get_function_address("run")), engine)


def assembly_of(level: Level) -> str:
    """The program as the processor gets it, to look at."""
    module, machine = _optimize(level)
    text: str = machine.emit_assembly(module)
    return text


def _optimize(level: Level) -> tuple[binding.ModuleRef, binding.TargetMachine]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=level.cpu, features=level.features, opt=3, jit=True)
    module = binding.parse_assembly(str(write_program(level).module))
    module.verify()
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(3))
    builder.getModulePassManager().run(module, builder)
    return module, machine


_YIELD = "ssd34_yield"


def _address_of_yield() -> int:
    """The system's function that lets other threads run."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def write_program(level: Level) -> Code:
    """All functions as LLVM code."""
    code = Code()
    code.declare(_YIELD)
    write_kernels(code, level)
    if level.amx:
        amx.write_amx_kernels(code, level)
        _write_amx_item(code, level)
    else:
        _write_prefetch(code, level)
        _write_winograd_item(code, level)
        _write_weights_item(code, level)
        _write_direct_item(code, level)
    _write_run(code, level)
    return code


def weight_bytes(level: Level, layer: Any) -> int:
    """Memory for a layer's transformed weights, one block after the other."""
    block = PLACES * (int(layer["channels"]) * level.outputs * 2 + ALIGN)
    return int(layer["outputs"]) // level.outputs * block * int(layer["shares"])


def scratch_bytes(level: Level, layer: Any) -> int:
    """Memory that one thread needs for a layer, a record of `LAYER`."""
    per_item, channels = int(layer["per_item"]), int(layer["channels"])
    if layer["kind"] == PLANES:
        planes = amx.Planes.of_layer(layer)
        return planes.count * planes.size(per_item) + amx.GROUP * level.outputs * 4
    sums = level.group * level.outputs * 4 + ALIGN
    if layer["kind"] == DIRECT:
        size = 1 if level.multiplies_bytes else 2
        return per_item * int(layer["kernel"]) ** 2 * channels * size + sums
    weights = 0 if layer["shares"] else channels * level.outputs * 2 + ALIGN
    return PLACES * (per_item * channels * 2 + ALIGN + sums + weights)


_ITEMS = {DIRECT: "direct_item", WINOGRAD: "winograd_item", WEIGHTS: "weights_item"}
_AMX_ITEMS = {PLANES: "amx_item"}
_ITEM = {"layer": POINTER, "item": I64, "scratch": POINTER}


def _write_winograd_item(code: Code, level: Level) -> None:
    """``winograd_item``: some tiles of a layer, all its outputs.

    In the scratch memory lie, each for 36 places: the tiles' transformed inputs, the sums of a
    group of tiles for one block of outputs, and that block's transformed weights, where threads do
    not share them. From place to place there are 64 bytes more than needed: at distances of a power
    of two they would share cache lines.
    """
    p = code.function("winograd_item", _ITEM)
    f = Fields(p["layer"])
    block, group = level.outputs, level.group
    channels, first, count = f["channels"], p["item"] * f["per_item"], _share(code, f, p["item"])
    steps = channels // 2
    row, sums_row = channels * 2, 4 * block
    strides = {
        "inputs": f["per_item"] * row + ALIGN,
        "weights": steps * (4 * block) + ALIGN,
        "sums": code.value(group * sums_row + ALIGN, I64),
    }
    inputs = p["scratch"]
    sums = inputs + strides["inputs"] * PLACES
    own = sums + strides["sums"] * PLACES
    shares = f["shares"].equals(1)

    with code.loop(count) as t:
        y, x = _place(first + t, f["across"])
        y, x = y * TILE - f["top"], x * TILE - f["left"]
        source = f.pointer("source") + (y * f["width"] + x) * channels
        inside = y.within(f["height"] - (PATCH - 1)) & x.within(f["width"] - (PATCH - 1))
        inside = inside & (f["height"] > PATCH - 1) & (f["width"] > PATCH - 1)
        arguments = source, inputs + t * row, f["width"] * channels, channels, strides["inputs"]
        with code.when(inside):
            code.call("tile", *arguments)
        with code.when(inside.equals(0)):
            code.call("tile_edge", *arguments, f.pointer("padding"), y, x, f["height"], f["width"])

    with code.loop(f["outputs"] // block) as k:
        with code.when(shares.equals(0)):
            source = f.pointer("weights") + k * channels * (9 * block)
            code.call("block_weights", source, own, steps, strides["weights"])
        spread = f.pointer("spread") + k * strides["weights"] * PLACES
        weights = code.select(shares, spread, own)
        with code.loop((count + (group - 1)) // group) as g:
            start = g * group
            here = code.smaller(count - start, code.value(group, I64))
            with code.loop(PLACES) as place:
                with code.when(place < here):
                    code.call("prefetch_tile", p["layer"], first + start + place, k)
                a = inputs + place * strides["inputs"] + start * row
                b, to = weights + place * strides["weights"], sums + place * strides["sums"]
                ahead = a + strides["inputs"]
                code.call(
                    f"products_{per_step(level, winograd=True)}", a, b, to, steps, row, ahead, here
                )
            with code.loop(here) as t, code.loop(2) as half:
                y, x = _place(first + start + t, f["across"])
                y, x = y * TILE, x * TILE
                output = k * block + half * level.lanes
                by = (y * f["out_width"] + x) * f["outputs"] + output
                rows, columns = f["out_height"] - y, f["out_width"] - x
                _finish_block(
                    code, f, "tile_results", sums + t * sums_row + half * (4 * level.lanes), by,
                    output, strides["sums"], f["out_width"] * f["outputs"], f["outputs"],
                    rows, columns, whole=(rows > TILE - 1) & (columns > TILE - 1),
                )  # fmt: skip
    code.finish()


def _write_weights_item(code: Code, level: Level) -> None:
    """``weights_item``: transform one block of a layer's weights."""
    p = code.function("weights_item", _ITEM)
    f, block = Fields(p["layer"]), level.outputs
    steps = f["channels"] // 2
    stride = steps * (4 * block) + ALIGN
    source = f.pointer("weights") + p["item"] * f["channels"] * (9 * block)
    target = f.pointer("spread") + p["item"] * stride * PLACES
    code.call("block_weights", source, target, steps, stride)
    code.finish()


def _write_prefetch(code: Code, level: Level) -> None:
    """``prefetch_tile``: bring the places near that a tile's results will be written to, and its
    residual, while products are computed."""
    p = code.function("prefetch_tile", {"layer": POINTER, "tile": I64, "block": I64})
    f = Fields(p["layer"])
    y, x = _place(p["tile"], f["across"])
    start = (y * TILE * f["out_width"] + x * TILE) * f["outputs"] + p["block"] * level.outputs

    def bring(name: str) -> None:
        for i in range(TILE):
            for j in range(TILE):
                by = start + (f["out_width"] * i + j) * f["outputs"]
                code.prefetch(f.pointer(name) + by, to_write=name == "target")

    bring("target")
    with code.when(f["residual"].equals(0).equals(0)):
        bring("residual")
    code.finish()


def _write_direct_item(code: Code, level: Level) -> None:
    """``direct_item``: some results of a layer, all its outputs: windows side by side, multiplied
    with all weights."""
    p = code.function("direct_item", _ITEM)
    f = Fields(p["layer"])
    block, group = level.outputs, level.group
    first, count = p["item"] * f["per_item"], _share(code, f, p["item"])
    numbers = f["kernel"] * f["kernel"] * f["channels"]
    each = per_step(level, winograd=False)
    steps, row = numbers // each, numbers * (4 // each)
    sums = p["scratch"]
    windows = sums + group * (4 * block)
    with code.loop(count) as t:
        y, x = _place(first + t, f["across"])
        y, x = y * f["stride"] - f["top"], x * f["stride"] - f["left"]
        code.call("window", p["layer"], y, x, windows + t * row)
    with code.loop(f["outputs"] // block) as k, code.loop((count + (group - 1)) // group) as g:
        start = g * group
        here = code.smaller(count - start, code.value(group, I64))
        weights = f.pointer("weights") + k * steps * (4 * block)
        a = windows + start * row
        code.call(f"products_{each}", a, weights, sums, steps, row, a + here * row, here)
        with code.loop(2) as half:
            output = k * block + half * level.lanes
            by = (first + start) * f["outputs"] + output
            _finish_block(
                code, f, "plain_results", sums + half * (4 * level.lanes), by, output,
                f["outputs"], here,
            )  # fmt: skip
    code.finish()


def _write_amx_item(code: Code, level: Level) -> None:
    """``amx_item``: some rows of a layer's results, all its outputs.

    In the scratch memory lie the sums of a group of positions for one block of outputs, and the
    planes. A group is finished row by row: positions behind a row's last result are passed over.
    """
    p = code.function("amx_item", _ITEM)
    f = Fields(p["layer"])
    block, sums_row = level.outputs, 4 * level.outputs
    first, rows = p["item"] * f["per_item"], _share(code, f, p["item"])
    steps = f["kernel"] * f["kernel"] * ((f["channels"] + (amx.BYTES - 1)) // amx.BYTES)
    sums, across, positions = p["scratch"], f["across"], rows * f["across"]
    planes = sums + amx.GROUP * sums_row
    code.call("planes", p["layer"], first, rows, planes)
    with (
        code.loop((positions + (amx.GROUP - 1)) // amx.GROUP) as g,
        code.loop(f["outputs"] // block) as k,
    ):
        start = g * amx.GROUP
        here = code.smaller(positions - start, code.value(amx.GROUP, I64))
        with (
            code.loop((steps + (amx.STEPS - 1)) // amx.STEPS) as s,
            code.loop((here + (amx.POSITIONS - 1)) // amx.POSITIONS) as t,
        ):
            done, by = s * amx.STEPS, t * amx.POSITIONS
            code.call(
                "amx_products", planes + (start + by) * amx.BYTES, f.pointer("offsets") + done * 8,
                f.pointer("weights") + (k * steps + done) * amx.STEP_BYTES, sums + by * sums_row,
                code.smaller(steps - done, code.value(amx.STEPS, I64)), done,
            )  # fmt: skip
        y = start // across
        with code.loop((start + here - 1) // across - y + 1) as row, code.loop(2) as half:
            begin = (y + row) * across
            end = code.smaller(begin + f["out_width"], start + here)
            from_ = code.larger(begin, start)
            output = k * block + half * level.lanes
            by = ((first + y + row) * f["out_width"] + from_ - begin) * f["outputs"] + output
            with code.when(from_ < end):
                _finish_block(
                    code, f, "plain_results",
                    sums + (from_ - start) * sums_row + half * (4 * level.lanes), by, output,
                    f["outputs"], end - from_,
                )  # fmt: skip
    code.finish()


def _finish_block(
    code: Code, f: Fields, name: str, sums: Value, by: Value, output: Value, *more: Value,
    whole: Value | None = None,
) -> None:  # fmt: skip
    """Call one of the kernels that make bytes of sums: with an addition or without, and, where
    `whole` is given, for tiles that do or do not lie in the picture as a whole."""
    shared = (
        sums, f.pointer("target") + by, f.pointer("residual") + by,
        f.pointer("bias") + output * 4, f.pointer("scale") + output * 4, f.layer,
    )  # fmt: skip
    adds = f["residual"].equals(0).equals(0)
    cases = {"": adds.equals(0), "_adds": adds}
    if whole is not None:
        ends = {"": whole, "_edge": whole.equals(0)}
        cases = {e + a: x & y for a, x in cases.items() for e, y in ends.items()}
    for end, condition in cases.items():
        with code.when(condition):
            code.call(name + end, *shared, *more)


def _write_run(code: Code, level: Level) -> None:
    """``run``: see `Program`."""
    p = code.function(
        "run",
        {"layers": POINTER, "count": I64, "counters": POINTER, "scratch": POINTER},
        exported=True,
    )
    if level.amx:
        amx.write_configuration(code)
    with code.loop(p["count"]) as k:
        layer, taken = p["layers"] + k * LAYER.itemsize, p["counters"] + k * COUNTERS
        done, items = taken + COUNTERS // 2, read(layer, "items")
        kind = read(layer, "kind")
        with code.forever() as leave_if:
            item = code.fetch_add(taken, 1)
            leave_if(item.within(items).equals(0))
            for number, name in (_AMX_ITEMS if level.amx else _ITEMS).items():
                with code.when(kind.equals(number)):
                    code.call(name, layer, item, p["scratch"])
            code.fetch_add(done, 1)
        looks = code.variable(I64)
        looks.store(0)
        with code.forever() as leave_if:
            leave_if(code.load_shared(done).equals(items))
            code.pause()
            looks.store(looks.load(I64) + 1)
            with code.when(looks.load(I64) > _SPINS):
                code.call(_YIELD)
    if level.amx:
        amx.write_release(code)
    code.finish()


def _share(code: Code, f: Fields, item: Value) -> Value:
    """How much an item of work holds: the last one less."""
    return code.smaller(f["per_item"], f["total"] - item * f["per_item"])


def _place(number: Value, across: Value) -> tuple[Value, Value]:
    """Row and column."""
    y = number // across
    return y, number - y * across
