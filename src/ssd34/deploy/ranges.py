"""Ranges of tensors from their histograms: which values the 256 steps of an int8 tensor span."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.deploy.histogram import Histogram
from ssd34.errors import OptionError

METHODS = ("minmax", "percentile", "entropy", "mse")
LEVELS = 256
_CANDIDATES = 128
_SMALLEST_STEP = 2.0**-60


@dataclass(frozen=True)
class Range:
    """Smallest and largest value; zero lies between them."""

    low: float
    high: float


@dataclass(frozen=True)
class Affine:
    """value = (step - zero_point) * scale, step a uint8.

    Attributes:
        scale: float32, above zero.
        zero_point: 0 to 255.
    """

    scale: np.float32
    zero_point: np.uint8

    @classmethod
    def of(cls, limits: Range) -> Affine:
        """The finest steps that hold the whole range and zero exactly."""
        low, high = min(limits.low, 0.0), max(limits.high, 0.0)
        even = max((high - low) / (LEVELS - 1), _SMALLEST_STEP)
        zero_point = round(-low / even)
        # Rounding the zero point cuts one end off: a slightly wider step holds both.
        below = -low / zero_point if zero_point else 0.0
        above = high / (LEVELS - 1 - zero_point) if zero_point < LEVELS - 1 else 0.0
        return cls(np.float32(max(below, above, _SMALLEST_STEP)), np.uint8(zero_point))

    def quantize(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values to steps as QuantizeLinear does: halves to the even step, ends saturate."""
        steps = np.rint(values / self.scale) + np.float32(self.zero_point)
        return np.clip(steps, 0, LEVELS - 1).astype(np.uint8)

    def dequantize(self, steps: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Steps to values."""
        return (steps.astype(np.float32) - np.float32(self.zero_point)) * self.scale


def value_range(histogram: Histogram, *, method: str, percentile: float) -> Range:
    """The range of a tensor.

    Args:
        histogram: of its values.
        method: one of `METHODS`. ``minmax``: all that was seen. ``percentile``: so much of it.
            ``entropy``: the clipping whose 256 steps keep most of the distribution's shape, by
            Kullback-Leibler divergence. ``mse``: the one with the smallest squared error.
        percentile: share of the values in percent, 50 to 100; only for that method.
    """
    methods: dict[str, Callable[[], Range]] = {
        "minmax": lambda: Range(histogram.smallest, histogram.largest),
        "percentile": lambda: _percentile(histogram, percentile),
        "entropy": lambda: _entropy(histogram),
        "mse": lambda: _mse(histogram),
    }
    if method not in methods:
        raise OptionError(f"unknown ranges {method!r}; expected one of {', '.join(METHODS)}")
    if histogram.total == 0:
        return Range(0.0, 0.0)
    found = methods[method]()
    # Never wider than what was seen, and with zero in it.
    low = min(max(found.low, histogram.smallest), 0.0)
    return Range(low, max(min(found.high, histogram.largest), 0.0))


def _percentile(histogram: Histogram, percentile: float) -> Range:
    """Leaves out so much in total, shared by both ends where both have values."""
    share = np.cumsum(histogram.counts) / histogram.total
    rest = 1 - percentile / 100
    one_sided = histogram.smallest >= 0 or histogram.largest <= 0
    cut = rest if one_sided else rest / 2
    edges = np.arange(len(share) + 1) * histogram.width - histogram.reach
    low = edges[int(np.searchsorted(share, cut, side="right"))]
    high = edges[min(int(np.searchsorted(share, 1 - cut, side="left")) + 1, len(share))]
    if histogram.smallest >= 0:
        return Range(0.0, float(high))
    if histogram.largest <= 0:
        return Range(float(low), 0.0)
    return Range(float(low), float(high))


def _clippings(histogram: Histogram, *, least: float) -> list[Range]:
    """The whole range and narrower ones that cut the farther end off first."""
    farthest = max(-histogram.smallest, histogram.largest)
    return [
        Range(max(histogram.smallest, -limit), min(histogram.largest, limit))
        for limit in farthest * np.linspace(1, least, _CANDIDATES)
    ]


def _mse(histogram: Histogram) -> Range:
    kept = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[kept], histogram.counts[kept].astype(np.float64)

    def error(limits: Range) -> float:
        affine = Affine.of(limits)
        scale, zero = float(affine.scale), float(affine.zero_point)
        steps = np.clip(np.rint(centres / scale) + zero, 0, LEVELS - 1)
        return float((counts * (centres - (steps - zero) * scale) ** 2).sum())

    best = Range(histogram.smallest, histogram.largest)
    # One end after the other, twice: they hardly depend on each other.
    for _ in range(2):
        for end in ("high", "low"):
            whole = getattr(histogram, "largest" if end == "high" else "smallest")
            other = best.low if end == "high" else best.high
            if whole * (1 if end == "high" else -1) <= 0:
                continue
            ends = whole * np.linspace(1, 0.05, _CANDIDATES)
            candidates = [Range(other, e) if end == "high" else Range(e, other) for e in ends]
            best = min(candidates, key=error)
    return best


def _entropy(histogram: Histogram) -> Range:
    """As TensorRT's calibration, for ranges with two ends.

    Source: S. Migacz, 8-bit Inference with TensorRT, 2017.
    """
    counts = histogram.counts.astype(np.float64)
    # Exact zeros, which a rectifier makes, are a spike that every range represents exactly.
    middle = len(counts) // 2
    if histogram.smallest >= 0:
        counts[middle] = counts[middle + 1]
    return min(
        _clippings(histogram, least=0.05), key=lambda limits: _divergence(counts, histogram, limits)
    )


def _divergence(counts: NDArray[np.float64], histogram: Histogram, limits: Range) -> float:
    """Kullback-Leibler divergence of the quantized from the true distribution."""
    affine = Affine.of(limits)
    scale, zero = float(affine.scale), float(affine.zero_point)
    steps = np.clip(np.rint(histogram.centres / scale) + zero, 0, LEVELS - 1).astype(np.int64)
    used = counts > 0
    # Everything beyond the ends lies in the end's last bin, as saturation puts it there.
    inside = (histogram.centres >= limits.low - histogram.width) & (
        histogram.centres <= limits.high + histogram.width
    )
    first, last = np.flatnonzero(inside)[[0, -1]]
    true = counts.copy()
    true[first] += counts[:first].sum()
    true[last] += counts[last + 1 :].sum()
    true[:first] = true[last + 1 :] = 0
    # Each step's own values spread evenly over those of its bins that have any.
    holding = inside & used
    per_step = np.bincount(steps[holding], counts[holding], minlength=LEVELS)
    bins = np.bincount(steps[holding], minlength=LEVELS)
    spread = np.where(holding, (per_step / np.maximum(bins, 1))[steps], 0.0)
    p, q = true / true.sum(), spread / max(spread.sum(), 1.0)
    p, q = p[p > 0], q[p > 0]
    # A bin that has only what was clipped, and a tiny share stands for nothing.
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())
