"""Whether the compiled code computes right on this processor: two small convolutions in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import ModelError
from ssd34.runtime.native.convolution import Addition, Convolution
from ssd34.runtime.native.levels import Level
from ssd34.runtime.native.network import NativeNetwork

_SIDE, _CHANNELS = 14, 96


@cache
def check_level(level: Level) -> None:
    """Run one convolution of each kind, the second with an addition; takes milliseconds, once.

    Raises:
        ModelError: a byte differs.
    """
    generator = np.random.default_rng(34)
    picture = generator.integers(0, 256, (_SIDE, _SIDE, _CHANNELS)).astype(np.uint8)
    first, second = (_drawn(generator, kernel) for kernel in (3, 1))
    network = NativeNetwork(
        [first, second], level, entry="0", size=(_SIDE, _SIDE), exits=["3", "1"], threads=1
    )
    between = _compute(first, picture, picture)
    expected = _compute(second, between, picture)
    with network.run(picture[None]) as found:
        right = {"3": between, "1": expected}
        if not all(np.array_equal(found[name][0], values) for name, values in right.items()):
            raise ModelError(
                f"the engine native computes wrong numbers with {level.name} here; use the engine "
                "onnxruntime, and please report the processor"
            )


def _drawn(generator: np.random.Generator, kernel: int) -> Convolution:
    numbers = (_CHANNELS, _CHANNELS, kernel, kernel)
    addition = Addition("0", np.float32(0.7), np.float32(0.6), np.float32(-4.2))
    return Convolution(
        name="check",
        source="0" if kernel == 3 else "3",
        target=str(kernel),
        weight=generator.integers(-127, 128, numbers).astype(np.int8),
        bias=generator.integers(-9999, 9999, _CHANNELS).astype(np.int32),
        scale=generator.uniform(0.3e-3, 0.9e-3, _CHANNELS).astype(np.float32),
        source_zero=7 if kernel == 3 else 9,
        target_zero=9 if kernel == 3 else 120,
        stride=1,
        pads=(kernel // 2,) * 4,
        addition=addition if kernel == 1 else None,
    )


def _compute(
    conv: Convolution, picture: NDArray[np.uint8], residual: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A convolution of stride 1 and its addition, (H, W, C), as kernels are meant to compute it."""
    kernel, top = conv.weight.shape[2], conv.pads[0]
    # Whole numbers below 2^53, which float64 holds exactly.
    real = np.pad(picture.astype(np.float64) - conv.source_zero, ((top, top), (top, top), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(real, (kernel, kernel), axis=(0, 1))
    sums = np.tensordot(windows, conv.weight.astype(np.float64), ((2, 3, 4), (1, 2, 3)))
    scaled = (sums + conv.bias).astype(np.float32) * conv.scale
    zero = np.float32(conv.target_zero)
    steps = np.rint(np.clip(scaled, -zero, 255 - zero)) + zero
    if conv.addition is not None:
        own, other, offset = (
            np.float64(v) for v in (conv.addition.own, conv.addition.other, conv.addition.offset)
        )
        inner = (residual * other + offset).astype(np.float32)  # rounded once, as an FMA does
        steps = np.clip(np.rint((steps * own + inner).astype(np.float32)), 0, 255)
    made: NDArray[np.uint8] = steps.astype(np.uint8)
    return made
