"""Every command that takes pictures and boxes takes all formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssd34.errors import DatasetError
from ssd34.files.checkpoint import read_checkpoint
from tests.conftest import TINY_LABELS
from tests.support.cli import invoke, read_document
from tests.support.datasets import voc_monitor_and_dog
from tests.support.training import QUICK


def test_training_takes_yolo(shapes, tiny_file, tmp_path):
    invoke("data", "convert", f"val={shapes}", tmp_path / "yolo", "--to", "yolo")
    data = f"{tmp_path / 'yolo'}@val"
    result = invoke("train", "--data", f"{data}=0.7", "--val", data, "--output", tmp_path / "run",
                    "--init", tiny_file, "--epochs", "1", "--json", *QUICK)  # fmt: skip
    told = read_document("train", result)
    assert (told["finished"], told["steps"]) == (True, 2)
    assert read_checkpoint(Path(told["last"])).labels.names == TINY_LABELS.names


def test_names_of_voc_for_a_model_of_coco(tmp_path):
    data = f"{voc_monitor_and_dog(tmp_path / 'voc')}@train"
    result = invoke("evaluate", "default", "--data", data, "--json", tmp_path / "a.json")
    assert "does not know aeroplane, diningtable, motorbike" in result.stderr
    assert "--coco-names" in result.stderr
    assert "tvmonitor" in json.loads((tmp_path / "a.json").read_text())["class_ap"]
    result = invoke("evaluate", "default", "--data", data, "--coco-names", "--json",
                    tmp_path / "b.json")  # fmt: skip
    assert "does not know" not in result.stderr
    assert list(json.loads((tmp_path / "b.json").read_text())["class_ap"]) == ["tv"]


def test_training_takes_voc_under_the_names_of_coco(tiny_file, tmp_path):
    data = f"{voc_monitor_and_dog(tmp_path / 'voc')}@train"
    arguments = ("train", "--data", data, "--val", data, "--set", "labels=coco", "--epochs", "1",
                 "--init", tiny_file, *QUICK)  # fmt: skip
    with pytest.raises(DatasetError, match="--coco-names"):
        invoke(*arguments, "--output", tmp_path / "a")
    invoke(*arguments, "--output", tmp_path / "b", "--set", "coco_names=true")
    assert len(read_checkpoint(tmp_path / "b" / "last.safetensors").labels) == 80
