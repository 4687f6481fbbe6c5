"""The numbers of an int8 network, whatever form its file has: scales, zero points and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ssd34.core.contract import LARGEST_BIAS, LARGEST_NARROW_WEIGHT, LARGEST_WEIGHT
from ssd34.core.preprocess import MEAN, STD
from ssd34.deploy.graph.layers import IMAGE, MAXPOOL, Affine, Conv, Layer, Network
from ssd34.deploy.int8.calibrate import CalibrationStatistics
from ssd34.deploy.int8.ranges import TRAINED, Range, find_range
from ssd34.errors import OptionError
from ssd34.setting_types import check_fields, read_fields

NEGLIGIBLE = 8.0
"""A logit so far below its box's largest has a share of exp(-8), 3e-4, in the softmax."""

_ODD_BOXES = 0.001
"""Share of the default boxes whose logits are all so low that the range need not hold them."""

_MANY_CHANNELS = 40
"""With so many, a box whose logits all saturate has scores of 1/40, below any useful threshold."""

_ENOUGH = 1000
"""Offsets from which their extremes are taken for a range."""

BYTES = Affine(np.float32(1 / 255), np.uint8(0))
"""A picture's bytes as steps."""

_MEAN = np.array(MEAN).reshape(3, 1, 1)
_STD = np.array(STD).reshape(3, 1, 1)

Ranges = Literal["minmax", "percentile", "entropy", "mse", "trained"]
Percentile = Annotated[float, Meta(ge=50, le=100)]


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a network is quantized.

    Attributes:
        form: ``"qoperator"``: operators that compute in int8, from opset 12 on; ``"qdq"``: float
            operators between QuantizeLinear and DequantizeLinear, which runtimes fuse.
        opset: version of the operators; max-pools of bytes came with 12. ``"qdq"`` below 13 has
            one scale for all of a weight.
        ranges: how the ranges of activations are found; see `ranges.find_range`; or
            ``"trained"``: the steps that quantization-aware training used.
        percentile: for the ranges of that name.
        per_channel: one scale for each output channel of a weight instead of one for all.
        reduce_range: weights of 7 bits, -64 to 64: processors without VNNI add two products in 16
            bits, which saturates with more.
        bias_correction: keep the mean of what rounded weights compute: their windows keep their
            sums, and the mean error on the calibration pictures is taken out of the biases.
        float_nodes: names of layers that stay in float, for example ``"backbone.conv1"``.
    """

    form: Literal["qoperator", "qdq"] = "qoperator"
    opset: Annotated[int, Meta(ge=12)] = 12
    ranges: Ranges = "minmax"
    percentile: Percentile = 99.99
    per_channel: bool = True
    reduce_range: bool = False
    bias_correction: bool = True
    float_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.form == "qdq" and self.per_channel and self.opset < 13:
            raise OptionError(
                "a QDQ file with one scale per channel needs opset 13 or newer, got "
                f"{self.opset}; use opset 13, per_channel=False or the form qoperator"
            )

    def replace(self, **changes: Any) -> QuantizeOptions:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def is_kind_of(self, other: QuantizeOptions) -> bool:
        """Whether they make the same kind of file."""
        mine, theirs = ((o.form, o.opset, o.per_channel) for o in (self, other))
        return mine == theirs

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "float_nodes": list(self.float_nodes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantizeOptions:
        """The inverse of `to_dict`; OptionError: a value is unknown or not allowed."""
        return read_fields(cls, values)


@dataclass(frozen=True, eq=False)
class Int8Conv:
    """A convolution's arrays in int8.

    Attributes:
        weight: (O, I, K, K) int8, symmetric.
        scale: (O,) float32, or () with one for all.
        bias: (O,) int32, in steps of the input's scale times the weight's.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Int8Plan:
    """What each value and layer becomes.

    Attributes:
        values: the picture and each layer to its steps.
        convs: the convolutions in int8, by layer.
        float_nodes: the layers that stay in float.
        bytes_input: whether the picture comes as (N, S, S, 3) uint8.
    """

    network: Network
    values: Mapping[str, Affine]
    convs: Mapping[str, Int8Conv]
    float_nodes: frozenset[str]
    bytes_input: bool


def plan_int8(
    network: Network,
    statistics: CalibrationStatistics,
    options: QuantizeOptions,
    *,
    bytes_input: bool,
) -> Int8Plan:
    """Find all numbers; the options' `float_nodes` are names of layers."""
    values = choose_steps(network, statistics, ranges=options.ranges, percentile=options.percentile)
    convs = {}
    for layer in network.convs:
        if layer.name in options.float_nodes:
            continue
        conv, means = layer.arrays, statistics.window_means[layer.name]
        if bytes_input and IMAGE in layer.inputs:
            values[IMAGE] = BYTES
            conv, means = fold_normalisation(layer).arrays, convert_means_to_bytes(means)
        input_scale = values[layer.inputs[0]].scale
        weight, scale = quantize_weight(
            conv,
            input_scale,
            per_channel=options.per_channel,
            largest=LARGEST_NARROW_WEIGHT if options.reduce_range else LARGEST_WEIGHT,
            keep_sums=options.bias_correction,
        )
        bias = conv.bias.astype(np.float64)
        if options.bias_correction:
            rounded = weight * scale.astype(np.float64).reshape(-1, 1, 1, 1)
            bias -= np.einsum("oikl,ikl->o", rounded - conv.weight, means)
        steps = np.rint(bias / (scale.astype(np.float64) * float(input_scale)))
        limit = np.iinfo(np.int32)
        convs[layer.name] = Int8Conv(
            weight, scale, np.clip(steps, limit.min, limit.max).astype(np.int32)
        )
    return Int8Plan(network, values, convs, frozenset(options.float_nodes), bytes_input)


def choose_steps(
    network: Network, statistics: CalibrationStatistics, *, ranges: str, percentile: float = 99.99
) -> dict[str, Affine]:
    """The steps of the picture and of each layer's output; OptionError as `check_ranges`."""
    if ranges == TRAINED:
        check_ranges(network, [ranges])
        return dict(network.trained)
    heads = choose_head_ranges(network, statistics)
    values = {}
    for name, histogram in statistics.histograms.items():
        limits = heads.get(name) or find_range(histogram, method=ranges, percentile=percentile)
        values[name] = Affine.spanning(limits.low, limits.high)
    for layer in network.layers:
        if layer.kind == MAXPOOL:  # picks values, so it keeps their steps
            values[layer.name] = values[layer.inputs[0]]
    return values


def check_ranges(network: Network, ranges: Collection[str]) -> None:
    """Raise an OptionError where the ranges are to be those of training, and it had none."""
    if TRAINED in ranges and not network.trained:
        raise OptionError(
            f"ranges {TRAINED!r}: the network does not come from quantization-aware training, or "
            "not from its checkpoint; train it with: ssd34 train --qat"
        )


def choose_head_ranges(network: Network, statistics: CalibrationStatistics) -> dict[str, Range]:
    """The ranges of the heads, by what decides on detections instead of by the bulk of values.

    Most logits lie so far below the largest of their default box that the softmax makes nothing of
    them, a detection is a rare large logit, and offsets count only where they may become a
    detection's.
    """
    ranges: dict[str, Range] = {}
    for loc, conf in zip(network.loc, network.conf, strict=True):
        seen, peaks = statistics.histograms[conf], statistics.peaks[conf]
        odd = _ODD_BOXES if network.spec.num_channels >= _MANY_CHANNELS else 0.0
        lowest = peaks.quantile(odd) if odd else peaks.smallest
        ranges[conf] = Range(max(seen.smallest, lowest - NEGLIGIBLE), seen.largest)
        likely = statistics.candidates[loc]
        if likely.total >= _ENOUGH:
            ranges[loc] = Range(likely.smallest, likely.largest)
    return ranges


def quantize_weight(
    conv: Conv, input_scale: np.float32, *, per_channel: bool, largest: int, keep_sums: bool
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights in steps of -largest to largest, and the scales, (O,) or () with one for all, wide
    enough for the bias to fit into int32. With `keep_sums` they are rounded as by `round_windows`,
    else to the nearest step."""
    reach = np.abs(conv.weight).max(axis=(1, 2, 3)).astype(np.float64)
    for_bias = np.abs(conv.bias) / (float(input_scale) * LARGEST_BIAS)
    scale = np.maximum(reach / largest, for_bias)
    if not per_channel:
        scale = scale.max()
    scale = np.where(scale > 0, scale, 1.0)
    narrow = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    exact = conv.weight / narrow.reshape(-1, 1, 1, 1).astype(np.float64)
    steps = round_windows(exact) if keep_sums else np.rint(exact)
    return np.clip(steps, -largest, largest).astype(np.int8), narrow


def round_windows(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps (O, I, K, K) rounded so that each window's sum stays, to half a step.

    Neighbouring pixels are alike, so the errors of a window's weights add up. Where their sum is
    off, those weights go the other way that lose least by it.
    """
    flat = steps.reshape(*steps.shape[:2], -1)
    nearest = np.rint(flat)
    error = flat - nearest
    off = np.rint(error.sum(axis=2, keepdims=True))
    # The place of each weight among those that were rounded down most, or up most.
    down = np.argsort(np.argsort(-error, axis=2, kind="stable"), axis=2)
    up = np.argsort(np.argsort(error, axis=2, kind="stable"), axis=2)
    nearest += down < off
    nearest -= up < -off
    return nearest.reshape(steps.shape)


def fold_normalisation(layer: Layer) -> Layer:
    """A convolution of normalised values as one of bytes / 255, with the padding already there."""
    weight = layer.arrays.weight / _STD
    bias = layer.arrays.bias - (weight * _MEAN).sum(axis=(1, 2, 3))
    conv = Conv(weight.astype(np.float32), bias.astype(np.float32))
    return dataclasses.replace(layer, conv=conv, padding=0)


def convert_means_to_bytes(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """`CalibrationStatistics.window_means` of normalised values for bytes / 255."""
    return np.asarray(means * _STD + _MEAN, np.float64)
