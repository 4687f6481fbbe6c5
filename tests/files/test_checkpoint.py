import dataclasses

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ssd34.core.labels import LabelSet
from ssd34.errors import CheckpointError
from ssd34.files.checkpoint import read_arrays, read_checkpoint


def test_round_trip(tmp_path, tiny_checkpoint):
    state = {"step": 3, "notes": {"start": "random"}}
    full = dataclasses.replace(
        tiny_checkpoint, training={"momentum.x": np.arange(3.0)}, state=state
    )
    full.save(tmp_path / "a.safetensors")
    read = read_checkpoint(tmp_path / "a.safetensors", training=True)
    assert (read.spec, read.labels, read.state) == (full.spec, full.labels, state)
    assert read.weights.keys() == full.weights.keys()
    assert all(np.array_equal(read.weights[k], full.weights[k]) for k in full.weights)
    assert read.training["momentum.x"].tolist() == [0, 1, 2]
    assert read_checkpoint(tmp_path / "a.safetensors").training == {}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_that_are_no_checkpoints(tmp_path, tiny_checkpoint, tiny_model):
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    meta = {"format": "ssd34-1", "spec": "{}", "labels": "{}", "state": "{}"}
    save_file({"a": np.zeros(1)}, tmp_path / "broken.safetensors", metadata=meta)
    odd = dataclasses.replace(tiny_checkpoint, labels=LabelSet.from_names(("a", "b")))
    odd.save(tmp_path / "odd.safetensors")
    names = ("missing", "text", "other", "broken", "odd")
    for path in (*(tmp_path / f"{name}.safetensors" for name in names), tiny_model):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value)
        assert ("ONNX" in str(caught.value)) == (path == tiny_model)
    assert "a" in read_arrays(tmp_path / "other.safetensors")[1]


def test_a_checkpoint_that_says_trunk_for_backbone(tiny_checkpoint, tmp_path):
    """As older versions wrote it: array names, the spec, settings and names of layers."""
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    notes = {"options": {"backbone_rate": 0.3}, "steps": {"backbone.conv1": [1.0, 2]}}
    momentum = {"optimizer.exp_avg.backbone.conv1.weight": np.zeros(2, np.float32)}
    dataclasses.replace(tiny_checkpoint, state=notes, training=momentum).save(new)
    with safe_open(new, framework="numpy") as file:
        metadata = {k: v.replace("backbone", "trunk") for k, v in file.metadata().items()}
        arrays = {k.replace("backbone", "trunk"): file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    save_file(arrays, old, metadata=metadata)
    read = read_checkpoint(old, training=True)
    assert read.spec == tiny_checkpoint.spec
    assert read.weights.keys() == tiny_checkpoint.weights.keys()
    assert read.training.keys() == momentum.keys()
    assert read.state == notes
