"""A trained detector for another list of classes."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from ssd34.core.labels import LabelSet
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Arrays, Checkpoint


def with_classes(checkpoint: Checkpoint, labels: LabelSet) -> tuple[Checkpoint, tuple[str, ...]]:
    """The same detector with other classes; those that both lists name keep their weights.
    Upper and lower case do not matter, unless both are there.

    Background keeps its weights, too. A class that is new starts as the mean of the old ones:
    it scores where the old network saw an object of any kind, and nowhere highly, so that
    training begins without a flood of false detections.

    Returns:
        The checkpoint, without what training left in it, and the names of the classes that
        kept their weights.

    Raises:
        CheckpointError: a confidence head has not one row for each class and box.
    """
    old = checkpoint.labels
    exact = {name: row for row, name in enumerate(old.names, start=1)}
    folded = {name.casefold(): row for name, row in exact.items()}
    rows = [exact.get(name, folded.get(name.casefold())) for name in labels.names]
    weights: Arrays = dict(checkpoint.weights)
    for name, array in checkpoint.weights.items():
        if not re.fullmatch(r"heads\.conf\.\d+\.(weight|bias)", name):
            continue
        if len(array) % (len(old) + 1):
            raise CheckpointError(
                f"{name} has {len(array)} rows, expected a multiple of {len(old) + 1}: the "
                "checkpoint's weights and classes do not belong together"
            )
        # Rows are ordered by class, then by box shape.
        by_class = array.reshape(len(old) + 1, -1, *array.shape[1:])
        mean = by_class[1:].mean(axis=0)
        chosen = [by_class[0], *(mean if row is None else by_class[row] for row in rows)]
        weights[name] = np.concatenate(chosen).astype(np.float32)
    kept = tuple(name for name, row in zip(labels.names, rows, strict=True) if row is not None)
    changed = dataclasses.replace(
        checkpoint,
        spec=checkpoint.spec.replace(num_classes=len(labels)),
        labels=labels,
        weights=weights,
        training={},
    )
    return changed, kept
