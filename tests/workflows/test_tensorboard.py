"""Events of TensorBoard, read back record by record with the format's own protobuf."""

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

import ssd34
from ssd34.errors import MissingExtraError, OptionError
from ssd34.evaluate.metrics import CocoMetrics
from ssd34.train.progress import Progress
from ssd34.workflows.train import EventWriter


def events(folder):
    """A record: its length (8 bytes), a checksum (4), the event, a checksum (4)."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def progress(step):
    return Progress(
        step=step, batches_per_epoch=10, share=0.5, elapsed=1, remaining=1, image_size=300,
        learning_rate=1e-3, loss=3.0, box_loss=1.0, class_loss=2.0, gradient_norm=4.0,
        images_per_second=8.0, data_wait=0.1, best_ap=-1,
    )  # fmt: skip


METRICS = CocoMetrics(5, {"AP": 0.25, "AP_small": None}, {"cat": 0.5}, {"cat": 0.75})


def test_what_is_written(tmp_path):
    writer = EventWriter(tmp_path)
    writer.progress(progress(10))
    writer.evaluated(METRICS)
    writer.close()
    values = {
        value.tag: (event.step, value.simple_value)
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
    }
    assert values["loss/box"] == (10, 1.0)
    assert values["speed/images_per_second"] == (10, 8.0)
    assert values["evaluation/AP"] == (10, 0.25)
    assert values["class_AP/cat"] == (10, 0.5)
    assert "evaluation/AP_small" not in values


def test_a_resumed_run_forgets_what_was_written_after_its_checkpoint(tmp_path):
    writer = EventWriter(tmp_path, resumed_at=20)
    writer.close()
    starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts == [21]


def test_what_is_refused_leaves_no_events(shapes, tiny_file, tmp_path, monkeypatch):
    """A batch of one picture, and a library that is not there."""
    given = {"data": shapes, "val": shapes, "output": tmp_path / "run", "init": tiny_file}
    settings = {"tensorboard": True, "labels": "data", "workers": 0}
    with pytest.raises(OptionError, match="--batch"):
        ssd34.train(**given, threads=1, settings={**settings, "batch_size": 1})
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ssd34\[tensorboard\]'"):
        ssd34.train(**given, threads=1, settings=settings)
    assert list(tmp_path.iterdir()) == []
