"""Ranges of tensors from their histograms: which values the 256 steps of an int8 tensor span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd34.deploy.graph.layers import LEVELS, Affine

BINS = 16384
"""Even in each half at every doubling, so that zero stays an edge."""
_CHUNK = 2**16
"""Values at once: few enough for the processor's cache."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a tensor's values in equal bins over [-reach, reach].

    Where a value lies beyond, the reach doubles and neighbouring bins are merged: the counts are
    those of a histogram that had the larger reach from the start.

    Attributes:
        counts: (BINS,) int64.
        reach: a power of two, or 0 before the first value.
        smallest: the smallest value, exactly.
        largest: the largest value, exactly.
    """

    counts: NDArray[np.int64]
    reach: float
    smallest: float
    largest: float

    @classmethod
    def empty(cls) -> Histogram:
        """No values yet."""
        return cls(np.zeros(BINS, np.int64), 0.0, np.inf, -np.inf)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of one bin."""
        return 2 * self.reach / BINS

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) middle of each bin."""
        return np.linspace(-self.reach, self.reach, BINS, endpoint=False) + self.width / 2

    def quantile(self, share: float) -> float:
        """The value below which this share of all lies; 0 to 1, to a bin's width."""
        place = int(np.searchsorted(np.cumsum(self.counts), share * self.total))
        value = -self.reach + self.width * (min(place, BINS - 1) + 0.5)
        return min(max(value, self.smallest), self.largest)

    def with_values(self, values: NDArray[np.float32]) -> Histogram:
        """A histogram with more values, of any shape; ValueError: one is not finite."""
        if values.size == 0:
            return self
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("values that are not finite")
        counts, reach = self.counts, self.reach or _power_of_two(max(abs(low), abs(high)))
        while reach < max(abs(low), abs(high)):
            counts, reach = _merged(counts), 2 * reach
        counts = counts.copy()
        flat = values.reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            # Exact: a product with a power of two, rounded down before the middle is added.
            places = np.floor(flat[start : start + _CHUNK] * np.float32(BINS / 2 / reach))
            # The largest value itself lies on the last edge.
            index = np.minimum(places.astype(np.intp) + BINS // 2, BINS - 1)
            counts += np.bincount(index, minlength=BINS)
        return Histogram(counts, reach, min(low, self.smallest), max(high, self.largest))


def _power_of_two(value: float) -> float:
    """The smallest power of two that is not below, and no denormal."""
    return float(2.0 ** np.ceil(np.log2(max(value, 2.0**-60))))


def _merged(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of bins added up, in the middle half."""
    return np.pad(counts.reshape(-1, 2).sum(axis=1), BINS // 4)


TRAINED = "trained"
"""Instead of a method: the steps that quantization-aware training used."""
_CANDIDATES = 128
"""Clippings that are tried for each end."""
_LEAST = 0.05
"""The narrowest of them, as a share of what was seen."""


@dataclass(frozen=True)
class Range:
    """Smallest and largest value; zero lies between them."""

    low: float
    high: float


def find_range(histogram: Histogram, *, method: str, percentile: float) -> Range:
    """The range of a tensor, by one of these methods. ``minmax``: all that was seen.
    ``percentile``: so many percent of it, 50 to 100. ``entropy``: the clipping whose 256 steps keep
    most of the distribution's shape, by Kullback-Leibler divergence. ``mse``: the one with the
    smallest squared error."""
    if histogram.total == 0:
        return Range(0.0, 0.0)
    seen = Range(min(histogram.smallest, 0.0), max(histogram.largest, 0.0))
    if method == "minmax" or seen.low == seen.high:
        return seen
    if method == "percentile":
        return _percentile(histogram, seen, percentile)
    return _entropy(histogram, seen) if method == "entropy" else _mse(histogram, seen)


def _percentile(histogram: Histogram, seen: Range, percentile: float) -> Range:
    """Leaves out so much in total, shared by both ends where both have values."""
    rest = 1 - percentile / 100
    cut = rest / 2 if seen.low < 0 < seen.high else rest
    return Range(
        min(histogram.quantile(cut), 0.0) if seen.low < 0 else 0.0,
        max(histogram.quantile(1 - cut), 0.0) if seen.high > 0 else 0.0,
    )


def _mse(histogram: Histogram, seen: Range) -> Range:
    kept = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[kept], histogram.counts[kept].astype(np.float64)

    def error(limits: Range) -> float:
        affine = Affine.spanning(limits.low, limits.high)
        scale, zero = float(affine.scale), float(affine.zero_point)
        steps = np.clip(np.rint(centres / scale) + zero, 0, LEVELS - 1)
        return float((counts * (centres - (steps - zero) * scale) ** 2).sum())

    best = seen
    shares = np.linspace(1, _LEAST, _CANDIDATES)
    # One end after the other, twice: they hardly depend on each other.
    for _ in range(2):
        if seen.high > 0:
            best = min((Range(best.low, seen.high * float(s)) for s in shares), key=error)
        if seen.low < 0:
            best = min((Range(seen.low * float(s), best.high) for s in shares), key=error)
    return best


def _entropy(histogram: Histogram, seen: Range) -> Range:
    """The farther end is cut off first.

    Source: S. Migacz, 8-bit Inference with TensorRT, 2017; here with a zero point.
    """
    counts = histogram.counts.astype(np.float64)
    # Exact zeros, which a rectifier makes, are a spike that every range represents exactly.
    if seen.low == 0:
        counts[BINS // 2] = counts[BINS // 2 + 1]
    if not counts.any():
        return seen
    farthest = max(-seen.low, seen.high)
    clippings = [
        Range(max(seen.low, -limit), min(seen.high, limit))
        for limit in (farthest * np.linspace(1, _LEAST, _CANDIDATES)).tolist()
    ]
    return min(clippings, key=lambda limits: _divergence(counts, histogram, limits))


def _divergence(counts: NDArray[np.float64], histogram: Histogram, limits: Range) -> float:
    """Kullback-Leibler divergence of the quantized from the true distribution, `counts` (BINS,),
    where values beyond the limits saturate."""
    affine = Affine.spanning(limits.low, limits.high)
    scale, zero = float(affine.scale), float(affine.zero_point)
    centres, width = histogram.centres, histogram.width
    steps = np.clip(np.rint(centres / scale) + zero, 0, LEVELS - 1).astype(np.int64)
    inside = (centres >= limits.low - width) & (centres <= limits.high + width)
    first, last = np.flatnonzero(inside)[[0, -1]]
    # Saturation puts everything beyond the ends into the last bin.
    true = np.where(inside, counts, 0.0)
    true[first] += counts[:first].sum()
    true[last] += counts[last + 1 :].sum()
    # A step's own values, even over those of its bins that have any.
    holding = inside & (counts > 0)
    per_step = np.bincount(steps[holding], counts[holding], minlength=LEVELS)
    bins = np.bincount(steps[holding], minlength=LEVELS)
    spread = np.where(holding, (per_step / np.maximum(bins, 1))[steps], 0.0)
    p, q = true / true.sum(), spread / max(float(spread.sum()), 1.0)
    p, q = p[p > 0], q[p > 0]
    # The last bin may hold nothing but what was clipped: a tiny share stands for none.
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())
