from __future__ import annotations

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from ssd34.cli.app import commands
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.errors import DatasetError, OptionError


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


def voc(folder):
    """Two pictures, of VOC's classes; one box is difficult."""
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6</ymax></bndbox>"
    for number, name in (("000001", "tvmonitor"), ("000002", "dog")):
        Image.new("RGB", (8, 6)).save(folder / "JPEGImages" / f"{number}.jpg")
        (folder / "Annotations" / f"{number}.xml").write_text(
            "<annotation><size><width>8</width><height>6</height></size>"
            f"<object><name>{name}</name><difficult>{int(name == 'dog')}</difficult>{box}</object>"
            f"<object><name>{name}</name>{box}</object></annotation>"
        )
    for split, lines in (("train", "000001\n"), ("test", "000002\n")):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)
    return folder


def test_convert_all_splits(tmp_path):
    result = run("convert", voc(tmp_path / "voc"), tmp_path / "new", "--to", "yolo")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "test: 1 picture, 1 box",
        "train: 1 picture, 2 boxes",
        f"written: {tmp_path / 'new'} (yolo)",
    ]
    assert "warning: 1 x crowd and difficult boxes were left out" in result.stderr
    assert set(find_dataset(tmp_path / "new").splits) == {"train", "test"}


def test_convert_as_json(tmp_path):
    file = tmp_path / "done.json"
    source = two_splits(tmp_path / "set")
    result = run("convert", source, tmp_path / "new", "--to", "voc", "--json", file)
    assert result.exit_code == 1
    values = json.loads(file.read_text())
    assert values["destination"] == str(tmp_path / "new") and values["format"] == "voc"
    assert values["splits"] == {
        "train": {"pictures": 1, "boxes": 2}, "val": {"pictures": 1, "boxes": 1}
    }  # fmt: skip
    changed = {entry["what"]: entry["count"] for entry in values["changed"]}
    assert changed == {"names": 1, "fractions": 3}
    [left_out] = values["left_out"]
    assert "labels/val/1.txt line 2" in left_out


def test_convert_some_splits_and_name_them(tmp_path, shapes):
    source = voc(tmp_path / "voc")
    result = run("convert", source, tmp_path / "a", "--to", "coco", "--split", "test")
    assert result.exit_code == 0 and find_dataset(tmp_path / "a").splits == ("",)
    result = run("convert", f"val={source}@test", tmp_path / "b", "--to", "yolo")
    assert result.exit_code == 0 and find_dataset(tmp_path / "b").splits == ("val",)
    result = run("convert", shapes, f"val={shapes}", tmp_path / "c", "--to", "coco")
    assert result.exit_code == 0 and find_dataset(tmp_path / "c").splits == ("train", "val")
    assert len(open_dataset(f"{tmp_path / 'c'}@val")) == 12
    strange = shutil.copytree(shapes, tmp_path / "x=y")
    result = run("convert", strange, tmp_path / "d", "--to", "coco")
    assert result.exit_code == 0 and len(open_dataset(tmp_path / "d")) == 12


def test_convert_renames_classes(tmp_path):
    source = voc(tmp_path / "voc")
    arguments = ("--to", "coco", "--split", "train")
    result = run("convert", source, tmp_path / "a", *arguments, "--coco-names")
    assert result.exit_code == 0
    labels = open_dataset(tmp_path / "a").labels
    assert labels.category_ids[labels.names.index("tv")] == 72
    renames = ("--rename", "tvmonitor=thing", "--rename", "dog=thing")
    result = run("convert", source, tmp_path / "b", *arguments, *renames)
    assert result.exit_code == 0
    dataset = open_dataset(tmp_path / "b")
    assert len(dataset.labels) == 19
    assert [dataset.labels.name(int(k)) for k in dataset.samples[0].labels] == ["thing"] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [(("--split", "no"), OptionError, "--split no: no source has it"),
     (("--split", "train", "--split", "no"), OptionError, "--split no: no source has it"),
     (("--rename", "tvmonitor"), OptionError, "expected OLD=NEW"),
     (("--rename", "telly=tv"), OptionError, "unknown class name 'telly'"),
     (("--to", "voc", "--link", "--split", "train"), None, "")],
)  # fmt: skip
def test_convert_with_bad_options(tmp_path, arguments, error, message):
    source = voc(tmp_path / "voc")
    arguments = ("convert", source, tmp_path / "new", "--to", "coco", *arguments)
    if error is None:
        assert run(*arguments).exit_code == 0
    else:
        result = run(*arguments)
        assert isinstance(result.exception, error) and message in str(result.exception)
        assert not (tmp_path / "new").exists()


def test_convert_refuses_a_report_over_its_source(tmp_path):
    source = voc(tmp_path / "voc")
    kept = sorted((source / "Annotations").iterdir())[0]
    before = kept.read_bytes()
    result = run(
        "convert", f"train={source}@train", tmp_path / "new", "--to", "coco", "--json", kept
    )
    assert isinstance(result.exception, OptionError)
    assert "not read here" in str(result.exception)
    assert kept.read_bytes() == before and not (tmp_path / "new").exists()


def test_convert_sources_that_cannot_be(tmp_path):
    source = voc(tmp_path / "voc")
    result = run("convert", f"val={source}", tmp_path / "new", "--to", "coco")
    assert isinstance(result.exception, OptionError) and "name one" in str(result.exception)
    result = run("convert", tmp_path / "nothing", tmp_path / "new", "--to", "coco")
    assert isinstance(result.exception, DatasetError)
    assert run("convert", source, "--to", "coco").exit_code == 2
    assert run("convert", source, tmp_path / "new", "--to", "tfrecord").exit_code == 2


def test_convert_says_which_source_lacks_a_split(tmp_path, shapes):
    source = voc(tmp_path / "voc")
    result = run("convert", f"{source}@test", tmp_path / "a", "--to", "coco", "--split", "train")
    assert "voc@test: names a split, and so does --split" in str(result.exception)
    result = run("convert", source, shapes, tmp_path / "b", "--to", "coco", "--split", "train")
    assert result.exit_code == 0
    assert "has none of the splits train; left out" in " ".join(result.stderr.split())
    assert find_dataset(tmp_path / "b").splits == ("",)
