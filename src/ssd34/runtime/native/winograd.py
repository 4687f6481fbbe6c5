"""The arithmetic of F(4x4, 3x3) in whole numbers: 36 products instead of 144 for 16 results.

A tile of 6 x 6 inputs d and a window of 3 x 3 weights g give 4 x 4 results, exact integers:

    576 * results = A ( (G g G') * (B' d B) ) A'          * is place by place; ' transposes

summed over the input channels before A, so that for each of the 36 places it is a product of two
matrices. Each row of G has the factor that makes it whole, 24 or 6, and A the rest, so that the
results are 24 * 24 = 576 = 9 * 64 times too large. All arithmetic wraps at 32 bits, which is exact
modulo 2^32: 9 has an inverse there, and 64 is a shift, right if the sum itself fits 26 bits.

The three functions take one column or row and are the only place where the matrices stand. They
work on whatever has +, - and *: integers, NumPy arrays, and the values of code being written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE = 4
"""Results of a tile, on a side."""

PATCH = TILE + 2
"""Inputs of a tile, on a side."""

PLACES = PATCH * PATCH
INVERSE_OF_9 = 954437177
"""9 times this is 1 modulo 2^32."""

SHIFT = 6
LARGEST_SUM = 2**25
"""Of a convolution's own sums, which SHIFT must not push out of 32 bits."""


def transform_inputs(d: Any) -> list[Any]:
    """B' d: six inputs of 0 to 255 to six numbers of at most 2550; twice: 17340."""
    left, right, near = d[4] - d[2], d[3] - d[1], (d[3] - d[1]) * 2
    far_even, far_odd = d[4] - d[2] * 4, d[3] - d[1] * 4
    return [
        left + (d[0] - d[2]) * 4,
        far_even + far_odd,
        far_even - far_odd,
        left + near,
        left - near,
        (d[5] - d[3]) - right * 4,
    ]


def transform_weights(g: Any) -> list[Any]:
    """G g: three weights of at most 128 to six numbers of at most 1536; twice: 18432."""
    ends, spread = g[0] + g[2], g[0] + g[2] * 4
    return [
        g[0] * 6,
        (ends + g[1]) * -4,
        (ends - g[1]) * -4,
        spread + g[1] * 2,
        spread - g[1] * 2,
        g[2] * 6,
    ]


def transform_results(m: Any) -> list[Any]:
    """A m: six sums to four results, times 24."""
    near, far = m[1] + m[2], m[3] + m[4]
    near_odd, far_odd = m[1] - m[2], m[3] - m[4]
    return [
        near + far + m[0],
        near_odd + far_odd * 2,
        near + far * 4,
        near_odd + far_odd * 8 + m[5] * 4,
    ]


def fits(weight: NDArray[np.int8]) -> bool:
    """Whether sums of a convolution fit, whatever bytes come in.

    Args:
        weight: (O, I, K, K) int8.
    """
    wide = weight.reshape(len(weight), -1).astype(np.int64)
    most = np.maximum(np.maximum(wide, 0).sum(axis=1), np.maximum(-wide, 0).sum(axis=1))
    return int(most.max(initial=0)) * 255 < LARGEST_SUM
