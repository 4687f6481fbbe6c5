from __future__ import annotations

import json

import yaml
from click.testing import CliRunner
from PIL import Image

from ssd34.cli.app import commands


def run(*arguments):
    return CliRunner().invoke(commands, ["data", *map(str, arguments)])


def two_splits(folder):
    for split, rows in (("train", "0 .5 .5 .5 .5\n1 .5 .5 .5 .5\n"), ("val", "1 .5 .5 .5 .5\nx\n")):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(folder / "images" / split / "1.png")
        (folder / "labels" / split / "1.txt").write_text(rows)
    config = {"train": "images/train", "val": "images/val", "names": ["nut", "[bolt]"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_info_as_json(tmp_path):
    result = run("info", two_splits(tmp_path / "set"), "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert values["format"] == "yolo"
    assert values["splits"]["train"] == {
        "pictures": 1, "empty": 0, "boxes": 2, "crowd": 0, "difficult": 0, "left_out": 0,
        "problems": [],
        "classes": [{"name": "nut", "id": 1, "boxes": 1}, {"name": "[bolt]", "id": 2, "boxes": 1}],
    }  # fmt: skip
    assert values["splits"]["val"]["left_out"] == 1
    assert "val/1.txt line 2" in values["splits"]["val"]["problems"][0]


def test_info_as_tables(tmp_path):
    result = run("info", two_splits(tmp_path / "set"))
    assert result.exit_code == 1
    assert "yolo data set" in result.stdout
    assert "[bolt]" in result.stdout and "boxes of train" in result.stdout
    assert "val/1.txt line 2" in result.stderr


def test_info_of_one_split_and_of_what_is_not_divided(tmp_path, shapes):
    result = run("info", f"{two_splits(tmp_path / 'set')}@train", "--json")
    assert result.exit_code == 0
    assert list(json.loads(result.stdout)["splits"]) == ["train"]
    result = run("info", shapes)
    assert result.exit_code == 0
    assert "coco data set" in result.stdout and "12" in result.stdout
