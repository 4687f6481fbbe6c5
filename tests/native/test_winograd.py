from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssd34.runtime.native.winograd import (
    INVERSE_OF_9,
    LARGEST_SUM,
    SHIFT,
    fits,
    transform_inputs,
    transform_results,
    transform_weights,
)

# As Lavin and Gray print them, "Fast algorithms for convolutional neural networks".
B = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]  # fmt: skip
G: list[list[str | int]] = [["1/4", 0, 0], ["-1/6", "-1/6", "-1/6"], ["-1/6", "1/6", "-1/6"],
     ["1/24", "1/12", "1/6"], ["1/24", "-1/12", "1/6"], [0, 0, 1]]  # fmt: skip
A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def test_the_matrices_are_the_published_ones_times_24():
    found_b = np.array(transform_inputs(np.eye(6, dtype=int)))
    found_g = np.array(transform_weights(np.eye(3, dtype=int)))
    found_a = np.array(transform_results(np.eye(6, dtype=int)))
    assert found_b.tolist() == B
    factors = (24, 24, 24, 24, 24, 6)
    for row, published, factor in zip(found_g.tolist(), G, factors, strict=True):
        assert row == [Fraction(v) * factor for v in published]
    columns = [Fraction(24, factor) for factor in factors]
    assert found_a.tolist() == [[v * c for v, c in zip(row, columns, strict=True)] for row in A]


def results_of(tile, window):
    """(6, 6, C) and (3, 3, C) int16 by the transforms, wrapping at 32 bits: (4, 4)."""

    def both(transform, values):
        half = np.array(transform(values))
        return np.array(transform(half.swapaxes(0, 1))).swapaxes(0, 1)

    inputs = both(transform_inputs, tile).astype(np.int32)
    weights = both(transform_weights, window).astype(np.int32)
    with np.errstate(over="ignore"):
        total = (inputs * weights).sum(axis=2, dtype=np.int32)
        return (both(transform_results, total) * np.int32(INVERSE_OF_9)) >> SHIFT


def direct(tile, window):
    tile, window = tile.astype(np.int64), window.astype(np.int64)
    return [[int((tile[y : y + 3, x : x + 3] * window).sum()) for x in range(4)] for y in range(4)]


extremes = st.sampled_from([0, 1, 127, 128, 254, 255])
signed = st.sampled_from([-128, -127, -1, 0, 1, 126, 127])


@given(
    arrays(np.int16, (6, 6, 5), elements=extremes | st.integers(0, 255)),
    arrays(np.int16, (3, 3, 5), elements=signed | st.integers(-128, 127)),
)
def test_equal_to_the_direct_sums_in_16_bits(tile, window):
    assert results_of(tile, window).tolist() == direct(tile, window)


@pytest.mark.parametrize("sign", [-1, 1])
def test_exact_up_to_the_bound_and_not_beyond(sign):
    """Sums overflow 32 bits long before; only the result itself has to fit."""
    tile = np.full((6, 6, 1), 255, np.int16)
    window = np.full((3, 3, 1), 127 * sign, np.int16)
    most = LARGEST_SUM // (255 * 127 * 9)
    for channels in (most, most + 1):
        tiles, windows = (np.repeat(each, channels, axis=2) for each in (tile, window))
        equal = results_of(tiles, windows).tolist() == direct(tiles, windows)
        weight = windows.astype(np.int8).transpose(2, 0, 1)[None]
        assert equal == fits(weight) == (channels == most)
