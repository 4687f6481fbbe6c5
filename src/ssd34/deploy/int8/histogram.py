"""A histogram that grows with its values, so that one pass over the pictures is enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    wide = np.zeros_like(counts)
    wide[BINS // 4 : 3 * BINS // 4] = counts.reshape(-1, 2).sum(axis=1)
    return wide
