"""A checkpoint read back from an ONNX file that `ssd34 export` has written.

Batch norm was folded into the convolutions when the file was made. Each normalisation is given
back as one that only adds the folded bias: weight 1, mean 0, variance 1 - epsilon. The function
is the same; the statistics are lost, and such norms have to stay frozen in training.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import identity, score_calibration
from ssd34.core.preprocess import STD
from ssd34.core.score_calibration import CONFIDENCE_BIASES
from ssd34.core.spec import NORM_EPSILON, ModelSpec
from ssd34.data.checkpoint import Arrays, Checkpoint
from ssd34.errors import CheckpointError, ModelError, require


def checkpoint_from_onnx(path: Path) -> Checkpoint:
    """The network in an ONNX file of ours, with weights stored as float32, float16 or int8.

    A score calibration that the file's biases hold is taken out of them and kept beside them.

    Raises:
        CheckpointError: missing, broken, not one of ours, or computing in int8.
    """
    onnx = require("onnx", extra="export", why="reading weights from an ONNX file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        arrays = {
            # A file that points to arrays elsewhere is not one that we wrote.
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.data_location != onnx.TensorProto.EXTERNAL
        }
    except Exception as error:  # protobuf and onnx have no common base
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: not a readable ONNX file ({reason})") from None
    try:
        found, scores = identity(metadata), score_calibration(metadata)
    except ModelError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if found is None:
        raise CheckpointError(
            f"{path}: has no ssd34 metadata; expected a file that ssd34 export has written, "
            "or a checkpoint"
        )
    spec, labels = found
    weights = _weights(arrays, spec, source=str(path))
    if scores is not None:
        for name in weights:
            if re.fullmatch(CONFIDENCE_BIASES, name):
                weights[name] = scores.unfold(weights[name], channels=spec.num_channels)
    return Checkpoint(spec=spec, labels=labels, weights=weights, score_calibration=scores)


def _weights(arrays: Arrays, spec: ModelSpec, *, source: str) -> Arrays:
    names = sorted(
        {
            found[1]
            for key in arrays
            if (found := re.fullmatch(r"((?:trunk|extras|heads)\..+)\.bias", key))
        }
    )
    weights: Arrays = {}
    for name in names:
        weight = _stored(arrays, f"{name}.weight", source)
        if name == "trunk.conv1" and "input.mean" in arrays:
            # The file takes bytes: the division by the deviation was folded into the stem.
            weight = weight * (np.array(STD, np.float32) * 255).reshape(1, 3, 1, 1)
        bias = arrays[f"{name}.bias"].astype(np.float32)
        conv, norm = _parameters(name, spec)
        weights[f"{conv}.weight"] = weight
        if norm is None:
            weights[f"{conv}.bias"] = bias
        else:
            weights |= unfolded_norm(norm, bias)
    return weights


def _stored(arrays: Arrays, name: str, source: str) -> NDArray[np.float32]:
    """A convolution's weight as the file computes with it."""
    if name in arrays and arrays[name].dtype == np.float32:
        return arrays[name].copy()
    if f"{name}.float16" in arrays:
        return arrays[f"{name}.float16"].astype(np.float32)
    if f"{name}.int8" in arrays and f"{name}.scale" in arrays:
        scaled: NDArray[Any] = arrays[f"{name}.int8"].astype(np.float32) * arrays[f"{name}.scale"]
        return scaled
    raise CheckpointError(
        f"{source}: has no float weight {name} (is it a file that computes in int8?); start from "
        "the checkpoint or the float file that it was made from"
    )


def _parameters(name: str, spec: ModelSpec) -> tuple[str, str | None]:
    """A graph node's convolution and normalisation among the network's parameters."""
    if name.endswith(".downsample"):
        return f"{name}.0", f"{name}.1"
    if name.startswith("trunk."):
        return name, name.replace("conv", "bn")
    if name.startswith("extras.") and spec.head_norm:
        return name, name.replace("conv", "norm")
    return name, None


def unfolded_norm(name: str, bias: NDArray[np.float32]) -> Arrays:
    """A normalisation that only adds a bias (C,)."""
    return {
        f"{name}.weight": np.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": np.zeros_like(bias),
        f"{name}.running_var": np.ones_like(bias) - np.float32(NORM_EPSILON),
    }


def has_unfolded_norm(weights: Arrays, prefix: str) -> bool:
    """Whether a normalisation below a name is one of `unfolded_norm`'s."""
    variance = 1 - np.float32(NORM_EPSILON)
    return any(
        bool((array == variance).all())
        for name, array in weights.items()
        if name.startswith(prefix) and name.endswith(".running_var")
    )
