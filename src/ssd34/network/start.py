"""What a run starts from: random weights, a trunk, or a trained detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.files.checkpoint import Arrays, Checkpoint, is_checkpoint, read_checkpoint
from ssd34.network.from_onnx import has_unfolded_norm
from ssd34.network.new_classes import with_classes
from ssd34.network.pretrained import read_trunk, start_trunk
from ssd34.network.ssd import SSD, load_weights

TRUNK = "trunk."
"""What the names of a detector's weights begin with there."""

NORMALISED = {"trunk_statistics": TRUNK, "head_statistics": "extras."}
"""The settings of batch norm, and what the names of what they are about begin with."""


@dataclass(frozen=True, eq=False)
class Start:
    """First weights; at most one of `trunk` and `detector` is there.

    Attributes:
        source: where they come from, for messages.
        trunk: an ImageNet trunk, or a detector's.
        detector: a whole detector.
        trunk_spec: of the detector whose trunk it is.
    """

    source: str = ""
    trunk: Arrays | None = None
    detector: Checkpoint | None = None
    trunk_spec: ModelSpec | None = None

    @property
    def spec(self) -> ModelSpec | None:
        """Of the detector, also where only its trunk is taken; None without one."""
        return self.trunk_spec if self.detector is None else self.detector.spec

    @property
    def kind(self) -> str:
        """``"random"``, ``"trunk"`` or ``"detector"``."""
        if self.detector is not None:
            return "detector"
        return "random" if self.trunk is None else "trunk"

    @property
    def folded(self) -> tuple[str, ...]:
        """The settings, of `NORMALISED`, whose batch norm has lost its statistics by folding."""
        if self.trunk is not None:
            return ("trunk_statistics",) if has_unfolded_norm(self.trunk, "") else ()
        weights = self.detector.weights if self.detector is not None else {}
        return tuple(key for key, part in NORMALISED.items() if has_unfolded_norm(weights, part))

    @property
    def trunk_alone(self) -> Start:
        """The same without a detector's extra blocks and heads, which then start anew."""
        if self.detector is None:
            return self
        weights = self.detector.weights.items()
        trunk = {k.removeprefix(TRUNK): array for k, array in weights if k.startswith(TRUNK)}
        return Start(self.source, trunk=trunk, trunk_spec=self.spec)

    def put_into(self, network: SSD, labels: LabelSet) -> str:
        """Give a network these weights; returns a line on what it got.

        Raises:
            CheckpointError: they belong to another network.
        """
        if self.trunk is not None:
            start_trunk(network, self.trunk, source=self.source)
            return f"trunk from {Path(self.source).name}"
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
    """First weights from a file: a checkpoint of ours, or an ImageNet trunk.

    Raises:
        CheckpointError: missing, broken or something else.
    """
    if is_checkpoint(path):
        return Start(str(path), detector=read_checkpoint(path))
    return Start(str(path), trunk=read_trunk(path))
