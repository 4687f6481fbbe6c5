"""A system whose locale is not UTF-8: names of files are what they are in one that is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.cli import run_commands
from tests.support.datasets import coco, coco_box, coco_image
from tests.support.pictures import encoded, noise

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CAT = "\u732b"


def ssd34(*commands, codes=(0,)):
    """Commands in a plain locale, where opening text without an encoding is an error; returns what
    each wrote."""
    ended, errors = run_commands(
        *commands,
        options=("-W", "error::EncodingWarning", "-X", "warn_default_encoding",
                 "-W", "ignore::EncodingWarning:matplotlib.font_manager"),
        env={**os.environ, **PLAIN},
    )  # fmt: skip
    assert {code for code, _ in ended} <= set(codes), errors
    return [text for _, text in ended]


@pytest.fixture
def folder(tmp_path):
    """A COCO data set whose folder, split and picture have a Chinese character in their names."""
    folder = tmp_path / CAT
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for k in (1, 2):
        (folder / "train" / f"{CAT}{k}.png").write_bytes(encoded(noise(40, 40, seed=k)))
    values = coco(
        images=[coco_image(id=k, file_name=f"{CAT}{k}.png", height=40) for k in (1, 2)],
        annotations=[coco_box(1, 2, 30, 20, id=k, image_id=k) for k in (1, 2)],
        categories=[{"id": 7, "name": CAT}],
    )
    text = json.dumps(values, ensure_ascii=False)
    (folder / "annotations" / "instances_train.json").write_text(text, encoding="utf-8")
    return folder


def names_in(folder: Path):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_detect(folder, tiny_model, tmp_path):
    pictures = folder / "train"
    command = ("detect", pictures, "--model", tiny_model)
    out = tmp_path / f"out{CAT}"
    ssd34(
        (*command, "--save", out, "--output", tmp_path / f"{CAT}.json"),
        (*command, "--format", "table"),
        (*command, "--format", "coco"),
        (*command, "--format", "csv", "--output", tmp_path / "a.csv"),
        (*command, "--format", "yolo", "--output", tmp_path / "labels"),
    )
    assert names_in(out) == [f"{CAT}1.png", f"{CAT}2.png"]
    values = json.loads((tmp_path / f"{CAT}.json").read_text(encoding="utf-8"))
    files = [str(pictures / f"{CAT}{k}.png") for k in (1, 2)]
    assert [one["file"] for one in values["pictures"]] == files
    assert files[0] in (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert names_in(tmp_path / "labels") == [f"{CAT}1.txt", f"{CAT}2.txt"]


def test_data(folder, tmp_path):
    forms = ("coco", "voc", "yolo")
    targets = [tmp_path / f"{CAT}{form}" for form in forms]
    commands = [
        command
        for form, target in zip(forms, targets, strict=True)
        for command in (
            ("data", "convert", folder, target, "--to", form),
            ("data", "info", target, "--json"),
            ("data", "check", target, "--json", f"{target}.json", "--sheet", f"{target}.png"),
        )
    ]
    told = ssd34(*commands, codes=(0, 1))
    for target, text in zip(targets, told[1::3], strict=True):
        assert {f"{CAT}1.png", f"{CAT}2.png"} <= set(names_in(target))
        (split,) = json.loads(text)["splits"].values()
        assert (split["boxes"], split["left_out"]) == (2, 0)
        assert [one["name"] for one in split["classes"]] == [CAT]
        checked = json.loads(target.with_name(f"{target.name}.json").read_text(encoding="utf-8"))
        assert checked["data"][0]["boxes"] == 2


def test_models(folder, tiny_model, tmp_path):
    model = tmp_path / f"{CAT}.onnx"
    shutil.copy(tiny_model, model)
    annotations = folder / "annotations" / "instances_train.json"
    text = annotations.read_text(encoding="utf-8")
    annotations.write_text(text.replace(f'"name": "{CAT}"', '"name": "disc"'), encoding="utf-8")
    report, written = tmp_path / f"report{CAT}", tmp_path / f"{CAT}.json"
    again, picture = tmp_path / f"again{CAT}.onnx", folder / "train" / f"{CAT}1.png"
    ssd34(
        ("detect", folder / "train", "--model", model, "--engine", "openvino"),
        ("evaluate", model, "--data", folder, "--policy", "best", "--report", report,
         "--json", written),
        ("export", model, again),
        ("verify", again),
        ("benchmark", again, "--images", folder / "train", "--rounds", "2"),
        ("package", again, "--picture", picture, "--output", tmp_path / f"package{CAT}"),
    )  # fmt: skip
    assert json.loads(written.read_text(encoding="utf-8"))["pictures"] == 2
    assert (report / "report.html").is_file()
    assert names_in(tmp_path / f"package{CAT}")
