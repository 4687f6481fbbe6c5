"""Batch norm folded into the convolutions before it: the same function, fewer operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.spec import NORM_EPSILON
from ssd34.data.checkpoint import Arrays
from ssd34.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution's arrays: weight (O, I, K, K) and bias (O,), both float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def folded(weights: Arrays, conv: str, norm: str | None) -> Conv:
    """A convolution with the normalisation behind it folded in.

    Args:
        weights: parameter name to array.
        conv: name of the convolution, for example ``"trunk.conv1"``.
        norm: name of its normalisation, or None.

    Raises:
        CheckpointError: an array is missing.
    """
    weight = _take(weights, f"{conv}.weight").astype(np.float64)
    bias = weights.get(f"{conv}.bias", np.zeros(len(weight))).astype(np.float64)
    if norm is not None:
        gamma, beta, mean, variance = (
            _take(weights, f"{norm}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        weight = weight * scale[:, None, None, None]
        bias = beta + (bias - mean) * scale
    return Conv(weight.astype(np.float32), bias.astype(np.float32))


def _take(weights: Arrays, name: str) -> NDArray[Any]:
    try:
        return weights[name]
    except KeyError:
        raise CheckpointError(f"the checkpoint lacks the array {name}") from None
