"""What a run starts from: random weights, a backbone, or a trained detector of any classes."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import Arrays, Checkpoint, is_checkpoint, read_checkpoint
from ssd34.network.pretrained import has_unfolded_norm, read_backbone, start_backbone
from ssd34.network.ssd import SSD, load_weights

BACKBONE = "backbone."
"""What the names of a detector's weights begin with there."""

NORMALISED = {"backbone_statistics": BACKBONE, "head_statistics": "extras."}
"""The settings of batch norm, and what the names of what they are about begin with."""


@dataclass(frozen=True, eq=False)
class Start:
    """First weights from a source: a whole detector, or a backbone, or neither.

    Attributes:
        backbone: of ImageNet, or of a detector.
        backbone_spec: that detector's; None: the backbone is none of a detector.
    """

    source: str = ""
    backbone: Arrays | None = None
    detector: Checkpoint | None = None
    backbone_spec: ModelSpec | None = None

    @property
    def spec(self) -> ModelSpec | None:
        """Of the detector, also where only its backbone is taken; None without one."""
        return self.backbone_spec if self.detector is None else self.detector.spec

    @property
    def kind(self) -> str:
        """``"random"``, ``"backbone"`` or ``"detector"``."""
        if self.detector is not None:
            return "detector"
        return "random" if self.backbone is None else "backbone"

    @property
    def folded(self) -> tuple[str, ...]:
        """The settings, of `NORMALISED`, whose batch norm has lost its statistics by folding."""
        if self.backbone is not None:
            return ("backbone_statistics",) if has_unfolded_norm(self.backbone, "") else ()
        weights = self.detector.weights if self.detector is not None else {}
        return tuple(key for key, part in NORMALISED.items() if has_unfolded_norm(weights, part))

    @property
    def backbone_alone(self) -> Start:
        """The same without a detector's extra blocks and heads, which then get random weights."""
        if self.detector is None:
            return self
        weights = self.detector.weights.items()
        backbone = {
            k.removeprefix(BACKBONE): array for k, array in weights if k.startswith(BACKBONE)
        }
        return Start(self.source, backbone=backbone, backbone_spec=self.spec)

    def put_into(self, network: SSD, labels: LabelSet) -> str:
        """Give a network these weights, and say in a line what it got; CheckpointError where they
        belong to another network."""
        if self.backbone is not None:
            start_backbone(network, self.backbone, source=self.source)
            return f"backbone from {Path(self.source).name}"
        if self.detector is None:
            return "random"
        if self.detector.labels.names == labels.names:
            load_weights(network, self.detector.weights, source=self.source)
            return f"all weights from {Path(self.source).name}"
        adapted, kept = change_classes(self.detector, labels)
        load_weights(network, adapted.weights, source=self.source)
        names = LabelSet.from_names(kept).preview(4) if kept else "none"
        return (
            f"weights from {Path(self.source).name}; classes that it knows: {names}; "
            f"new: {len(labels) - len(kept)}"
        )


def read_start(path: Path) -> Start:
    """First weights from a file: a checkpoint of ours, or an ImageNet backbone; CheckpointError
    where it is missing, broken or something else."""
    if is_checkpoint(path):
        return Start(str(path), detector=read_checkpoint(path))
    return Start(str(path), backbone=read_backbone(path))


def change_classes(checkpoint: Checkpoint, labels: LabelSet) -> tuple[Checkpoint, tuple[str, ...]]:
    """The same detector with other classes, without what training left in it, and the classes that
    kept their weights: those that both lists name. Upper and lower case do not matter, unless both
    are there. CheckpointError where a confidence head has not one row for each class and box.

    Background keeps its weights, too. A class that is new starts as the mean of the old ones: it
    scores where the old network saw an object of any kind, and nowhere highly, so that training
    begins without a flood of false detections.
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
