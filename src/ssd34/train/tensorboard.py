"""A run's numbers as TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssd34.errors import require
from ssd34.evaluate.coco_metrics import CocoMetrics
from ssd34.train.progress import Progress

FOLDER = "tensorboard"

_STEP = {
    "loss/all": "loss",
    "loss/box": "box_loss",
    "loss/class": "class_loss",
    "train/learning_rate": "learning_rate",
    "train/gradient_norm": "gradient_norm",
    "speed/images_per_second": "images_per_second",
    "speed/data_wait": "data_wait",
}


class EventWriter:
    """Writes events beside the checkpoints."""

    def __init__(self, output: Path, *, resumed_at: int | None = None) -> None:
        """
        Args:
            output: the run's folder.
            resumed_at: steps done before; what was written after them no longer counts.

        Raises:
            MissingExtraError: tensorboardX is not installed.
        """
        library = require("tensorboardX", extra="tensorboard", why="--set tensorboard=true")
        self._step = resumed_at or 0
        purge = None if resumed_at is None else resumed_at + 1
        self._writer: Any = library.SummaryWriter(
            logdir=str(output / FOLDER), purge_step=purge, flush_secs=15
        )

    def progress(self, now: Progress) -> None:
        """The numbers of some steps."""
        self._step = now.step
        for tag, name in _STEP.items():
            self._writer.add_scalar(tag, getattr(now, name), now.step)

    def evaluated(self, metrics: CocoMetrics) -> None:
        """COCO's numbers, and AP of each class, after the steps reported last."""
        for name, value in metrics.summary.items():
            if value is not None:
                self._writer.add_scalar(f"evaluation/{name}", value, self._step)
        for name, value in metrics.class_ap.items():
            self._writer.add_scalar(f"class_AP/{name}", value, self._step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
