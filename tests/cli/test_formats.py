"""Every command that takes pictures and boxes takes all formats."""

from __future__ import annotations

import json

import pytest

from ssd34.errors import DatasetError
from ssd34.files.checkpoint import read_checkpoint
from tests.conftest import TINY_LABELS
from tests.support.cli import invoke
from tests.support.datasets import voc_monitor_and_dog


@pytest.fixture(scope="module")
def every_format(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    for form in ("coco", "voc", "yolo"):
        invoke("data", "convert", f"val={shapes}", folder / form, "--to", form)
    return folder


def test_evaluation_is_the_same_in_all_formats(every_format, shapes, tiny_model, tmp_path):
    summaries = []
    for number, data in enumerate((shapes, *sorted(every_format.iterdir()))):
        file, found = tmp_path / f"{number}.json", tmp_path / f"{number}-found.json"
        invoke("evaluate", tiny_model, "--data", data, "--json", file, "--detections", found)
        values = json.loads(file.read_text())
        summaries.append((values["summary"], values["class_ap"]))
        boxes = [result["bbox"] for result in json.loads(found.read_text())]
        assert len(boxes) > 0
    assert summaries[0][0]["AP"] is not None
    assert all(summary == summaries[0] for summary in summaries)


TINY = ("--spec", "ssd300-resnet18", "--epochs", "1", "--batch", "4", "--workers", "0",
        "--set", "warmup_steps=1", "--set", "small_size=64", "--set", "small_share=1")  # fmt: skip


def test_training_takes_yolo_and_voc_under_the_names_of_coco(every_format, tmp_path):
    yolo = f"{every_format / 'yolo'}@val"
    invoke("train", "--data", f"{yolo}=0.3", "--val", yolo, "--output", tmp_path / "run", *TINY)
    checkpoint = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert checkpoint.labels.names == TINY_LABELS.names
    voc = f"{voc_monitor_and_dog(tmp_path / 'voc')}@train"
    command = ("train", "--data", voc, "--val", voc, "--set", "labels=coco", *TINY)
    with pytest.raises(DatasetError, match="--coco-names"):
        invoke(*command, "--output", tmp_path / "a")
    invoke(*command, "--output", tmp_path / "b", "--coco-names")
    assert len(read_checkpoint(tmp_path / "b" / "last.safetensors").labels) == 80


def test_names_of_voc_for_a_model_of_coco(tmp_path):
    data = f"{voc_monitor_and_dog(tmp_path / 'voc')}@train"
    for name, options in (("tvmonitor", ()), ("tv", ("--coco-names",))):
        file = tmp_path / f"{name}.json"
        result = invoke("evaluate", "default", "--data", data, *options, "--json", file)
        warned = "aeroplane, diningtable, motorbike" in result.stderr
        assert warned == ("--coco-names" in result.stderr) == (not options)
        assert name in json.loads(file.read_text())["class_ap"]
