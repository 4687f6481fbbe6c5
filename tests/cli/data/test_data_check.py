from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ssd34.errors import DatasetError, OptionError
from tests.conftest import shapes_dataset
from tests.support.cli import attempt
from tests.support.datasets import voc_annotation, voc_folder, voc_object
from tests.support.pictures import save_picture


def run(*arguments):
    return attempt("data", "check", *arguments)


@pytest.fixture
def broken(tmp_path):
    """One truncated picture of three."""
    folder = shapes_dataset(tmp_path / "broken", pictures=3, seed=5)
    file = folder / "images" / "0002.png"
    file.write_bytes(file.read_bytes()[:2000])
    return folder


def test_a_clean_set(shapes, tmp_path):
    result = run(shapes, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0 and not (tmp_path / "sheet.png").exists()
    assert result.stdout and result.stderr


def test_the_table_says_what_is_wrong(shapes, broken):
    result = run(shapes, broken)
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "pictures 12 3" in lines
    assert any(line.startswith("unreadable picture 1 broken: 0002.png: ") for line in lines)
    assert any(line.startswith("class (3) ") for line in lines)


def test_sheet_and_json(shapes, broken, tmp_path):
    sheet, values = tmp_path / "sheet.png", tmp_path / "check.json"
    result = run(broken, shapes, "--sheet", sheet, "--json", values, "--threads", "2")
    assert result.exit_code == 1
    read = json.loads(values.read_text())
    assert [data["pictures"] for data in read["data"]] == [3, 12]
    assert read["counts"] == {"unreadable picture": 1}
    assert read["findings"][0]["where"] == "0002.png"
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 300


def test_all_splits_are_compared(tmp_path):
    """YOLO's val has a picture of train; only val is clean in itself."""
    folder = tmp_path / "set"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        Image.linear_gradient("L").save(folder / "images" / split / f"{split}.png")
        (folder / "labels" / split / f"{split}.txt").write_text("0 .5 .5 .5 .5\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
    result = run(folder)
    assert result.exit_code == 1
    assert "picture in two sets" in result.stdout
    assert run(f"{folder}@val").exit_code == 0


def test_vocs_trainval_is_no_leak(tmp_path):
    splits = {"train": ["1"], "val": ["2"], "trainval": ["1", "2"]}
    texts = dict.fromkeys("12", voc_annotation(voc_object()))
    folder = voc_folder(tmp_path / "VOC", texts, splits=splits)
    save_picture(folder / "JPEGImages/2.jpg", colour="blue")
    assert run(folder).exit_code == 0
    shutil.copy(folder / "JPEGImages/1.jpg", folder / "JPEGImages/2.jpg")
    assert run(folder).exit_code == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sheet", "sheet.jpg"), ("--sheet", "nowhere/sheet.png"), ("--json", ".")],
)
def test_misuse_is_told_before_the_work(shapes, option, value):
    result = run(shapes, option, value)
    assert isinstance(result.exception, OptionError)
    assert value in str(result.exception) and result.stdout == ""
    assert isinstance(run("nowhere.zip").exception, DatasetError)
    assert run().exit_code == 2


@pytest.mark.parametrize("form", ["zip", "in zip", "file", "folder"])
def test_outputs_over_inputs_are_refused(tmp_path, form):
    """Annotations may have any name."""
    folder = shapes_dataset(tmp_path / "set", pictures=2)
    picture = next((folder / "images").iterdir())
    boxes = (folder / "instances.json").rename(folder / "result.json")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    path, kept = {
        "zip": (archive,) * 2, "in zip": (f"{archive}/result.json", archive),
        "file": (boxes,) * 2, "folder": (folder, boxes),
    }[form]  # fmt: skip
    before = kept.read_bytes()
    twice = tmp_path / "a.png"
    outputs = [("--json", kept), ("--json", twice, "--sheet", twice)]
    outputs += [("--sheet", picture)] if form in ("file", "folder") else []
    for output in outputs:
        result = run(path, *output)
        assert isinstance(result.exception, OptionError)
        assert str(output[-1]) in str(result.exception)
    assert kept.read_bytes() == before


@pytest.mark.parametrize("first", [0, 1])
def test_what_was_assumed_is_said_and_is_not_wrong(tmp_path, first):
    text = voc_annotation(voc_object("nut", (first, 5, 20, 30)))
    folder = voc_folder(tmp_path / "voc", {"1": text})
    result = run(folder, "--json", tmp_path / "check.json")
    values = json.loads((tmp_path / "check.json").read_text())
    assert result.exit_code == 0 and values["clean"]
    assert [one["kind"] for one in values["findings"]] == ["assumed"] * (1 - first)
    for arguments in (("info", folder), ("info", folder, "--json")):
        said = attempt("data", *arguments).stderr
        assert ("warning: " in said and "corners" in said) == (first == 0)


def test_a_set_whose_every_box_is_ignored_is_wrong(tmp_path):
    text = voc_annotation(voc_object("nut", extra="<difficult>1</difficult>"))
    folder = voc_folder(tmp_path / "voc", {"1": text})
    result = run(folder, "--json", tmp_path / "check.json")
    values = json.loads((tmp_path / "check.json").read_text())
    assert result.exit_code == 1 and values["counts"] == {"every box ignored": 1}
    assert "difficult" in attempt("data", "info", folder).stderr
