import ctypes
import dataclasses
import functools
import re
import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvmlite import binding

from ssd34.errors import ModelError
from ssd34.runtime.native.convolution import Packed, share
from ssd34.runtime.native.kernels import WINOGRAD
from ssd34.runtime.native.levels import (
    AMX,
    AVX2,
    AVX512_VNNI,
    AVX_VNNI,
    LEVELS,
    available_levels,
    is_available,
)
from ssd34.runtime.native.network import NativeNetwork
from ssd34.runtime.native.program import assembly_of
from tests.support.convolutions import (
    bytes_of,
    drawn_convolution,
    levels,
    run_network,
    sums_of,
)
from tests.support.refusals import refused
from tests.support.spelled_out import AMX_SPELLED_OUT, compile_spelled_out

each_level = pytest.mark.parametrize("level", levels())
quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def drawn_picture(seed, *shape, kind="any"):
    generator = np.random.default_rng(seed)
    if kind == "extremes":
        return (generator.integers(0, 2, shape) * 255).astype(np.uint8)
    return generator.integers(0, 256, shape).astype(np.uint8)


def is_winograd(conv, level, height, width):
    record = Packed(conv, level, height=height, width=width, threads=1).records[-1]
    return bool(record["kind"] == WINOGRAD)


@each_level
@quick
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(13, 22), st.integers(13, 22)),
    outputs=st.sampled_from([1, 16, 31, 32, 33, 64, 81]),
    inputs=st.sampled_from([32, 64, 96]),
    padding=st.integers(0, 1),
    zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    kind=st.sampled_from(["any", "extremes"]),
)
def test_tiles(level, seed, size, outputs, inputs, padding, zeros, kind):
    conv = drawn_convolution(seed, outputs=outputs, inputs=inputs, pads=(padding,) * 4, zeros=zeros)
    picture = drawn_picture(seed, *size, inputs, kind=kind)
    expected = bytes_of(conv, sums_of(conv, picture))
    np.testing.assert_array_equal(run_network(conv, level, picture), expected)
    assert is_winograd(conv, level, *size) != level.amx


@each_level
@quick
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    outputs=st.sampled_from([1, 24, 32, 40]),
    inputs=st.sampled_from([32, 64]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_windows(level, seed, size, outputs, inputs, kernel, stride, pads, zeros):
    top, left, bottom, right = pads
    if size[0] + top + bottom < kernel or size[1] + left + right < kernel:
        return
    conv = drawn_convolution(
        seed, outputs=outputs, inputs=inputs, kernel=kernel, stride=stride, pads=pads, zeros=zeros
    )
    picture = drawn_picture(seed, *size, inputs)
    expected = bytes_of(conv, sums_of(conv, picture))
    np.testing.assert_array_equal(run_network(conv, level, picture), expected)


@each_level
@pytest.mark.parametrize(("kernel", "size"), [(3, (14, 15)), (1, (5, 7))])
def test_a_residual_is_added(level, kernel, size):
    conv = drawn_convolution(
        1, outputs=32, inputs=32, kernel=kernel, pads=(kernel // 2,) * 4, adds="in"
    )
    picture = drawn_picture(2, *size, 32)
    expected = bytes_of(conv, sums_of(conv, picture), residual=picture)
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(run_network(conv, level, picture), expected)


@each_level
def test_a_layer_beyond_the_bound_is_computed_directly(level):
    conv = drawn_convolution(3, outputs=32, inputs=160)
    picture = drawn_picture(3, 14, 14, 160)
    assert is_winograd(conv, level, 14, 14) != level.amx
    conv.weight[5] = 127  # 127 * 9 * 160 * 255 is above 2^25
    assert not is_winograd(conv, level, 14, 14)
    expected = bytes_of(conv, sums_of(conv, picture))
    np.testing.assert_array_equal(run_network(conv, level, picture), expected)


@each_level
def test_a_layer_of_many_items(level):
    """With AMX an item has rows of 26 KB, 512 KB in all."""
    conv = drawn_convolution(7, outputs=32, inputs=64, zeros=(9, 3))
    picture = drawn_picture(7, 30, 400, 64)
    (record,) = Packed(conv, level, height=30, width=400, threads=1).records[-1:]
    assert record["items"] > 1
    expected = bytes_of(conv, sums_of(conv, picture))
    np.testing.assert_array_equal(run_network(conv, level, picture), expected)


@each_level
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_the_work(level, threads):
    conv = drawn_convolution(4, outputs=64, inputs=64, zeros=(3, 9))
    picture = drawn_picture(4, 37, 41, 64)
    expected = run_network(conv, level, picture)
    for _ in range(3):
        np.testing.assert_array_equal(run_network(conv, level, picture, threads=threads), expected)


@given(total=st.integers(1, 5000), at_most=st.integers(1, 500), threads=st.integers(1, 9))
def test_work_is_shared_evenly(total, at_most, threads):
    each = share(total, at_most=at_most, threads=threads)
    items = -(-total // each)
    assert 1 <= each <= at_most
    rounds = -(-items // threads)
    assert (rounds - 1) * threads * each < total


assembly = functools.cache(assembly_of)


def inner_loop(text, name):
    """The instructions of a function's only loop, as their names and operands."""
    body = text.split(f"\n{name}:")[1].split("\n.Lfunc_end")[0]
    lines = [line.strip() for line in body.splitlines()]
    for number, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.LBB\w+)", line)
        if jump and f"{jump[1]}:" in lines[:number]:
            return lines[lines.index(f"{jump[1]}:") + 1 : number]
    raise AssertionError(f"{name} has no loop")


@pytest.mark.skipif(not available_levels(), reason="LLVM compiles for another processor here")
@pytest.mark.parametrize(
    ("level", "name", "instruction", "number"),
    [
        (AVX512_VNNI, "products_2_14", "vpdpwssd", 28),
        (AVX512_VNNI, "products_4_14", "vpdpbusd", 28),
        (AVX_VNNI, "products_2_6", "vpdpwssd", 12),
        (AVX_VNNI, "products_4_6", "vpdpbusd", 12),
        (AVX2, "products_2_6", "vpmaddwd", 12),
    ],
)
def test_the_inner_loop_stays_in_registers(level, name, instruction, number):
    """With LLVM 22: what else it does is load and broadcast. A newer LLVM may need a new look."""
    loop = inner_loop(assembly(level), name)
    said = f"LLVM {'.'.join(map(str, binding.llvm_version_info))}: {loop}"
    assert sum(instruction in line.split() for line in loop) == number, said
    assert not any("%rsp" in line or "%rbp" in line for line in loop), said
    assert len(loop) < 2 * number + 30, said


@pytest.mark.skipif(not available_levels(), reason="LLVM compiles for another processor here")
def test_amx_registers_are_not_moved():
    """With LLVM 22: a load for each product, and what counts and adds addresses."""
    text = assembly(AMX)
    loop = inner_loop(text, "amx_products")
    said = f"LLVM {'.'.join(map(str, binding.llvm_version_info))}: {loop}"
    names = Counter(line.split()[0] for line in loop)
    assert names["tdpbusd"] == names["tileloadd"] > 0 == names["tilestored"], said
    assert {line.split()[-1] for line in loop if line.startswith("tdp")} == {
        f"%tmm{number}" for number in range(4)
    }
    assert not any("%rsp" in line for line in loop), said
    assert len(loop) <= 4 * names["tdpbusd"], said
    run = text.split("\nrun:")[1].split("\n.Lfunc_end")[0]
    places = [run.index(name) for name in ("ldtilecfg", "call", "tilerelease", "retq")]
    assert places == sorted(places) and run.count("retq") == run.count("tilerelease") == 1
    assert text.count("ldtilecfg") == 1


@pytest.mark.skipif(not is_available(AMX_SPELLED_OUT), reason="no AVX2 here")
def test_amx_registers_are_configured():
    """The layout is Intel's: palette, start row, 14 reserved bytes, 16 x bytes a row, 16 x rows."""
    program = compile_spelled_out()
    conv = drawn_convolution(1, outputs=32, inputs=32)
    run_network(conv, AMX_SPELLED_OUT, drawn_picture(1, 3, 3, 32))
    address = program.engine.get_global_value_address("configuration")
    palette, start, *sizes = struct.unpack("<BB14x16H16B", ctypes.string_at(address, 64))
    assert (palette, start) == (1, 0)
    assert sizes == [64] * 8 + [0] * 8 + [16] * 8 + [0] * 8


def test_convolutions_that_do_not_fit_together_are_refused():
    """A broken file must not make the kernels read where nothing is."""
    first = drawn_convolution(5, outputs=32, inputs=32)
    others = {
        "channels": drawn_convolution(5, outputs=32, inputs=64),
        "kernel": drawn_convolution(5, outputs=32, inputs=32, kernel=9, pads=(0,) * 4),
        "residual": drawn_convolution(5, outputs=32, inputs=32, stride=2, adds="in"),
    }
    for name, conv in others.items():
        second = dataclasses.replace(conv, name=name, source="out", target="end")
        with refused(ModelError, name):
            NativeNetwork(
                [first, second], LEVELS[0], entry="in", size=(6, 6), exits=["end"], threads=1
            )


@each_level
def test_a_picture_of_another_size_is_refused(level):
    conv = drawn_convolution(6, outputs=32, inputs=32)
    network = NativeNetwork([conv], level, entry="in", size=(6, 6), exits=["out"], threads=1)
    with refused(ModelError, "(6, 7, 32)"), network.run(np.zeros((1, 6, 7, 32), np.uint8)):
        pass
