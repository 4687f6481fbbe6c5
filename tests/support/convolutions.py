"""Int8 convolutions of drawn numbers, and what they are in whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssd34.runtime.native.convolution import Addition, Convolution
from ssd34.runtime.native.levels import LEVELS, Level, is_available
from ssd34.runtime.native.network import NativeNetwork
from tests.support.spelled_out import AMX_SPELLED_OUT, AVX_VNNI_OF_AVX512


def levels() -> list[Any]:
    """Every instruction set as a test's parameter, skipped where this processor lacks it."""
    every = (*LEVELS, AMX_SPELLED_OUT, AVX_VNNI_OF_AVX512)
    missing = [level for level in every if not is_available(level)]
    return [
        pytest.param(
            level,
            id=level.name,
            marks=pytest.mark.skipif(level in missing, reason=f"no {level.name} here"),
        )
        for level in every
    ]


def drawn_convolution(
    seed: int,
    *,
    outputs: int,
    inputs: int,
    kernel: int = 3,
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    zeros: tuple[int, int] = (0, 0),
    largest: int = 127,
    adds: str | None = None,
) -> Convolution:
    """A convolution from the value "in" to the value "out", which may add another value."""
    generator = np.random.default_rng(seed)
    shape = (outputs, inputs, kernel, kernel)
    spread = np.sqrt(np.prod(shape[1:])) * largest / 2 * 150
    return Convolution(
        name="drawn",
        source="in",
        target="out",
        weight=generator.integers(-largest, largest + 1, shape).astype(np.int8),
        bias=generator.integers(-50000, 50000, outputs).astype(np.int32),
        scale=(generator.uniform(20, 200, outputs) / spread).astype(np.float32),
        source_zero=zeros[0],
        target_zero=zeros[1],
        stride=stride,
        pads=pads,
        addition=Addition(adds, *(np.float32(v) for v in (0.83, 0.61, -11.7)))
        if adds is not None
        else None,
    )


def sums_of(conv: Convolution, picture: np.ndarray) -> np.ndarray:
    """A convolution's sums, window by window in int64: (H', W', O)."""
    top, left, bottom, right = conv.pads
    around = ((top, bottom), (left, right), (0, 0))
    padded = np.pad(picture.astype(np.int64) - conv.source_zero, around)
    kernel, weight = conv.weight.shape[2], conv.weight.astype(np.int64)
    rows = range(0, padded.shape[0] - kernel + 1, conv.stride)
    columns = range(0, padded.shape[1] - kernel + 1, conv.stride)
    sums = np.array([
        [np.einsum("yxi,oiyx->o", padded[y : y + kernel, x : x + kernel], weight) for x in columns]
        for y in rows
    ])  # fmt: skip
    total: np.ndarray = sums + conv.bias
    return total


def bytes_of(conv: Convolution, sums: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
    """Rounded as ONNX Runtime's QLinearConv and QLinearAdd do, in float32 and its FMA."""
    zero = conv.target_zero
    real = sums.astype(np.float32) * conv.scale
    steps = np.clip(np.rint(real).astype(np.int64), -zero, 255 - zero) + zero
    if residual is not None:
        assert conv.addition is not None
        own, other, offset = (
            np.float64(v) for v in (conv.addition.own, conv.addition.other, conv.addition.offset)
        )
        inner = (residual * other + offset).astype(np.float32)
        steps = np.clip(np.rint((steps * own + inner).astype(np.float32)), 0, 255)
    made: np.ndarray = steps.astype(np.uint8)
    return made


def run_network(
    conv: Convolution, level: Level, picture: np.ndarray, *, threads: int = 1
) -> np.ndarray:
    """What the native code makes of it."""
    network = NativeNetwork(
        [conv], level, entry="in", size=picture.shape[:2], exits=["out"], threads=threads
    )
    with network.run(picture[None]) as found:
        return found["out"][0, :, :, : len(conv.weight)].copy()
