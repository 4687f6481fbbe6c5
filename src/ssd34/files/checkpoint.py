"""Checkpoint files: weights, the spec that shapes them and the class names, in one safetensors.

The keys are the network's own parameter names, for example ``backbone.layer3.0.conv1.weight``.
Training adds what it needs to resume under the prefix ``training.``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import CONFIDENCE_BIASES, ScoreCalibration, parse_identity
from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec, rename_trunk
from ssd34.errors import CheckpointError, ModelError, OptionError, require
from ssd34.files.atomic import written_whole

LAST = "last.safetensors"
BEST = "best.safetensors"
"""The weights in a run's folder."""

FORMAT = "ssd34-1"
TRAINING_PREFIX = "training."
_SCORES = "score_calibration"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        weights: parameter name to array.
        training: momentum and other arrays that only training needs.
        state: JSON values that only training needs, and notes on where weights came from.
        score_calibration: what an exported file adds to its scores' biases; not in `weights`, from
            which training resumes.
    """

    spec: ModelSpec
    labels: LabelSet
    weights: Arrays
    training: Arrays = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    score_calibration: ScoreCalibration | None = None

    @property
    def calibrated(self) -> Checkpoint:
        """The same with its score calibration, if any, folded into the weights."""
        found = self.score_calibration
        if found is None:
            return self
        heads = [name for name in self.weights if re.fullmatch(CONFIDENCE_BIASES, name)]
        channels = self.spec.num_channels
        folded = {name: found.fold(self.weights[name], channels=channels) for name in heads}
        weights = {**self.weights, **folded}
        return dataclasses.replace(self, weights=weights, score_calibration=None)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        numpy_format = require("safetensors.numpy", extra="export", why="writing a checkpoint")
        training = {TRAINING_PREFIX + key: array for key, array in self.training.items()}
        arrays = {k: np.asarray(a, order="C") for k, a in (self.weights | training).items()}
        metadata = {
            "format": FORMAT,
            "spec": json.dumps(self.spec.to_dict()),
            "labels": json.dumps(self.labels.to_dict()),
            "state": json.dumps(dict(self.state)),
        }
        if self.score_calibration is not None:
            metadata[_SCORES] = self.score_calibration.to_json()
        size = sum(array.nbytes for array in arrays.values())
        with written_whole(path, needs=size) as temporary:
            numpy_format.save_file(arrays, temporary, metadata=metadata)


def is_named_checkpoint(path: Path) -> bool:
    """Whether a file is called as checkpoints are, whatever is in it."""
    return path.suffix.lower() == ".safetensors"


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of ours; CheckpointError for a .safetensors that is broken."""
    return is_named_checkpoint(path) and read_arrays(path, skip=("",))[0].get("format") == FORMAT


def read_header(path: Path) -> Checkpoint:
    """`read_checkpoint` without the arrays: spec, labels and state."""
    return _checkpoint(path, *read_arrays(path, skip=("",)))


def read_checkpoint(path: Path, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint file, where `training` is set with the arrays that only it needs;
    CheckpointError: missing, broken, or not one of ours."""
    return _checkpoint(path, *read_arrays(path, skip=() if training else (TRAINING_PREFIX,)))


def _checkpoint(path: Path, metadata: dict[str, str], arrays: Arrays) -> Checkpoint:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not an ssd34 checkpoint (no {FORMAT!r} in its metadata); "
            "turn foreign weights into one with: ssd34 convert"
        )
    try:
        spec, labels = parse_identity(metadata, spec_key="spec", labels_key="labels")
        state = json.loads(rename_trunk(metadata["state"]))
        calibration = ScoreCalibration.in_metadata(metadata, _SCORES)
    except (KeyError, ValueError, ModelError, OptionError) as error:
        raise CheckpointError(f"{path}: broken checkpoint metadata ({error})") from None
    weights, training = Arrays(), Arrays()
    for name, array in arrays.items():
        kind = training if name.startswith(TRAINING_PREFIX) else weights
        kind[rename_trunk(name.removeprefix(TRAINING_PREFIX))] = array
    return Checkpoint(spec, labels, weights, training, state, calibration)


def read_arrays(path: Path, *, skip: tuple[str, ...] = ()) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of any safetensors file, but for keys that start with one of `skip`;
    CheckpointError where it is missing or something else."""
    safetensors = require("safetensors", extra="export", why="reading a checkpoint")
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint file; expected a .safetensors, so check the path"
        )
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{path}: an ONNX file; expected a checkpoint (.safetensors), from which ONNX files "
            "are made"
        )
    try:
        with safetensors.safe_open(path, "numpy") as file:
            keys = [key for key in file.keys() if not key.startswith(skip)]  # noqa: SIM118
            return dict(file.metadata() or {}), {key: file.get_tensor(key) for key in keys}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}); expected a checkpoint of ours"
        ) from None
