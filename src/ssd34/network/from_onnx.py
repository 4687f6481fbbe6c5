"""A checkpoint from the network of an ONNX file, whose batch norm was folded into the convolutions.

Each normalisation is given back as one that only adds the folded bias: weight 1, mean 0, variance 1
- epsilon. The function is the same; the statistics are lost, and such norms have to stay frozen in
training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.core.score_calibration import CONFIDENCE_BIASES, ScoreCalibration
from ssd34.core.spec import NORM_EPSILON, ModelSpec
from ssd34.files.checkpoint import Arrays, Checkpoint


def unfold_checkpoint(
    spec: ModelSpec,
    labels: LabelSet,
    convs: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    scores: ScoreCalibration | None = None,
) -> Checkpoint:
    """The checkpoint of a network whose normalisations were folded.

    Args:
        spec: the network.
        labels: its classes.
        convs: weight and bias of each convolution, by the name of its layer.
        scores: the calibration that the biases hold, if any: taken out and kept beside them.
    """
    weights: Arrays = {}
    for name, (weight, bias) in convs.items():
        conv, norm = _parameters(name, spec)
        weights[f"{conv}.weight"] = weight
        if norm is None:
            weights[f"{conv}.bias"] = bias
        else:
            weights |= make_unfolded_norm(norm, bias)
    if scores is not None:
        for name in weights:
            if re.fullmatch(CONFIDENCE_BIASES, name):
                weights[name] = scores.unfold(weights[name], channels=spec.num_channels)
    return Checkpoint(spec=spec, labels=labels, weights=weights, score_calibration=scores)


def _parameters(name: str, spec: ModelSpec) -> tuple[str, str | None]:
    """A graph node's convolution and normalisation among the network's parameters."""
    if name.endswith(".downsample"):
        return f"{name}.0", f"{name}.1"
    if name.startswith("backbone."):
        return name, name.replace("conv", "bn")
    if name.startswith("extras.") and spec.head_norm:
        return name, name.replace("conv", "norm")
    return name, None


def make_unfolded_norm(name: str, bias: NDArray[np.float32]) -> Arrays:
    """A normalisation that only adds a bias (C,)."""
    return {
        f"{name}.weight": np.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": np.zeros_like(bias),
        f"{name}.running_var": np.ones_like(bias) - np.float32(NORM_EPSILON),
    }


def has_unfolded_norm(weights: Arrays, prefix: str) -> bool:
    """Whether a normalisation below a name is one of `make_unfolded_norm`'s."""
    variance = 1 - np.float32(NORM_EPSILON)
    return any(
        bool((array == variance).all())
        for name, array in weights.items()
        if name.startswith(prefix) and name.endswith(".running_var")
    )
