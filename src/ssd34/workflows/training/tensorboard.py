"""A run's numbers as TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.errors import require
from ssd34.evaluate.metrics import CocoMetrics
from ssd34.files.atomic import naming

if TYPE_CHECKING:
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
    """Writes events beside the checkpoints.

    At once, not in the thread of the library's SummaryWriter: where that one dies of a full disk,
    who adds events waits without end.
    """

    def __init__(self, output: Path, *, resumed_at: int | None = None) -> None:
        """
        Args:
            output: the run's folder.
            resumed_at: steps done before; what was written after them no longer counts.

        Raises:
            MissingExtraError: tensorboardX is not installed.
            OSError: the folder cannot be written.
        """
        require("tensorboardX", extra="tensorboard", why="--set tensorboard=true")
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = output / FOLDER
        self._step = resumed_at or 0
        with naming(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer: Any = EventsWriter(str(self._folder / "events"))
            if resumed_at is not None:
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=time.time(), step=resumed_at + 1, session_log=start)
                self._writer.write_event(event)
            self._writer.flush()

    def progress(self, now: Progress) -> None:
        """The numbers of some steps."""
        self._step = now.step
        self._add({tag: getattr(now, name) for tag, name in _STEP.items()})

    def evaluated(self, metrics: CocoMetrics) -> None:
        """COCO's numbers, and AP of each class, after the steps reported last."""
        summary = {f"evaluation/{k}": v for k, v in metrics.summary.items() if v is not None}
        self._add({**summary, **{f"class_AP/{k}": v for k, v in metrics.class_ap.items()}})

    def _add(self, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with naming(self._folder):
            for tag, value in values.items():
                event = Event(wall_time=time.time(), step=self._step, summary=scalar(tag, value))
                self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with naming(self._folder):
            self._writer.close()
