"""What a run starts from: random weights, a backbone, or a trained detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.files.checkpoint import Arrays, Checkpoint, is_checkpoint, read_checkpoint
from ssd34.network.from_onnx import has_unfolded_norm
from ssd34.network.new_classes import with_classes
from ssd34.network.pretrained import read_backbone, start_backbone
from ssd34.network.ssd import SSD, load_weights

BACKBONE = "backbone."
"""What the names of a detector's weights begin with there."""

NORMALISED = {"backbone_statistics": BACKBONE, "head_statistics": "extras."}
"""The settings of batch norm, and what the names of what they are about begin with."""


@dataclass(frozen=True, eq=False)
class Start:
    """First weights; at most one of `backbone` and `detector` is there.

    Attributes:
        source: where they come from, for messages.
        backbone: an ImageNet backbone, or a detector's.
        detector: a whole detector.
        backbone_spec: of the detector whose backbone it is.
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
        """Give a network these weights; returns a line on what it got.

        Raises:
            CheckpointError: they belong to another network.
        """
        if self.backbone is not None:
            start_backbone(network, self.backbone, source=self.source)
            return f"backbone from {Path(self.source).name}"
        if self.detector is None:
            return "random"
        if self.detector.labels.names == labels.names:
            load_weights(network, self.detector.weights, source=self.source)
            return f"all weights from {Path(self.source).name}"
        adapted, kept = with_classes(self.detector, labels)
        load_weights(network, adapted.weights, source=self.source)
        names = LabelSet.from_names(kept).preview(4) if kept else "none"
        return (
            f"weights from {Path(self.source).name}; classes that it knows: {names}; "
            f"new: {len(labels) - len(kept)}"
        )


def read_start(path: Path) -> Start:
    """First weights from a file: a checkpoint of ours, or an ImageNet backbone.

    Raises:
        CheckpointError: missing, broken or something else.
    """
    if is_checkpoint(path):
        return Start(str(path), detector=read_checkpoint(path))
    return Start(str(path), backbone=read_backbone(path))
