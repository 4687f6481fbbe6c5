from __future__ import annotations

import json
import shlex
import shutil

import pytest
from PIL import Image

from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.errors import DatasetError, OptionError
from tests.conftest import EXAMPLES
from tests.support.cli import attempt
from tests.support.datasets import voc_annotation, voc_object, yolo_folder
from tests.support.datasets import voc_monitor_and_dog as voc
from tests.support.pictures import save_picture


def run(*arguments):
    return attempt("data", *arguments)


def two_splits(folder):
    rows = "0 .5 .5 .5 .5\n1 .5 .5 .5 .5\n"
    yolo_folder(folder, rows, config={"names": ["nut", "[bolt]"]})
    (folder / "labels" / "val" / "1.txt").write_text("1 .5 .5 .5 .5\nx\n")
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


def test_info_as_tables(tmp_path, shapes):
    """Of several splits, of one, and of what is not divided."""
    source = two_splits(tmp_path / "set")
    result = run("info", source)
    assert result.exit_code == 1
    assert "[bolt]" in result.stdout and "val/1.txt line 2" in result.stderr
    result = run("info", f"{source}@train", "--json")
    assert result.exit_code == 0
    assert list(json.loads(result.stdout)["splits"]) == ["train"]
    result = run("info", shapes)
    assert result.exit_code == 0 and "coco" in result.stdout and "12" in result.stdout


def test_convert_all_splits(tmp_path):
    result = run("convert", voc(tmp_path / "voc"), tmp_path / "new", "--to", "yolo")
    assert result.exit_code == 0, result.output
    test, train, written = result.stdout.splitlines()
    assert test.startswith("test: 1 ") and train.startswith("train: 1 ")
    assert str(tmp_path / "new") in written and "yolo" in written
    assert "1 x crowd and difficult" in result.stderr
    assert set(find_dataset(tmp_path / "new").splits) == {"train", "test"}


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_a_split_that_cannot_be_used_is_left_out_unless_it_is_named(tmp_path, form):
    """As Ultralytics' test without labels."""
    source = yolo_folder(tmp_path / "set", config={"names": ["nut"], "test": "images/test"})
    save_picture(source / "images" / "test" / "2.png")
    (source / "labels" / "val" / "1.txt").write_text("0 .5 .5 .5 .5")
    to = (tmp_path / "new", "--to", form)
    info, converted = run("info", source, "--json"), run("convert", source, *to, "--json")
    checked = run("check", source, "--json")
    for result in (info, converted, checked):
        assert result.exit_code == 1, result.output
    found = json.loads(info.stdout)["splits"]
    pictures = {name: (one["pictures"], one["left_out"]) for name, one in found.items()}
    assert pictures == {"train": (1, 0), "val": (1, 0), "test": (0, 1)}
    values = json.loads(converted.stdout)
    assert list(values["splits"]) == ["train", "val"]
    (left_out,) = values["left_out"]
    assert left_out.startswith("test: ") and left_out in converted.stderr
    assert set(find_dataset(tmp_path / "new").splits) == {"train", "val"}
    findings = json.loads(checked.stdout)["findings"]
    assert {(one["data"], one["where"]) for one in findings if one["kind"] == "other"} == {
        (f"{source}@test", "test")
    }
    named = ((f"{source}@test",), (source, "--split", "test"))
    for words in (
        ("info", *named[0]),
        ("check", *named[0]),
        *(("convert", *n, *to) for n in named),
    ):
        assert isinstance(run(*words).exception, DatasetError)
    for labels in source.glob("labels/*/*"):
        labels.unlink()
    for words in (("info", source), ("check", source), ("convert", source, *to)):
        assert isinstance(run(*words).exception, DatasetError)


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
    strange = shutil.copytree(shapes, tmp_path / "x=y")
    for number, (sources, options, splits) in enumerate((
        ((source,), ("--to", "coco", "--split", "test"), ("",)),
        ((f"val={source}@test",), ("--to", "yolo"), ("val",)),
        ((shapes, f"val={shapes}"), ("--to", "coco"), ("train", "val")),
        ((f"dev={shapes}",), ("--to", "coco"), ("dev",)),
        ((strange,), ("--to", "coco"), ("",)),
    )):  # fmt: skip
        assert run("convert", *sources, tmp_path / str(number), *options).exit_code == 0
        assert find_dataset(tmp_path / str(number)).splits == splits
    assert len(open_dataset(f"{tmp_path / '2'}@val")) == len(open_dataset(tmp_path / "4")) == 12


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
    ("sources", "options", "error", "fact"),
    [(["{voc}"], ["--split", "no"], OptionError, "--split no"),
     (["{voc}"], ["--split", "train", "--split", "no"], OptionError, "--split no"),
     (["{voc}"], ["--rename", "tvmonitor"], OptionError, "OLD=NEW"),
     (["{voc}"], ["--rename", "telly=tv"], OptionError, "'telly'"),
     (["{voc}"], ["--json", "{voc}/Annotations/000001.xml"], OptionError, "000001.xml"),
     (["val={voc}"], [], OptionError, "voc"), (["nothing"], [], DatasetError, "nothing"),
     (["{voc}@test"], ["--split", "train"], OptionError, "voc@test"),
     ([], [], SystemExit, ""), (["{voc}"], ["--to", "tfrecord"], SystemExit, "")],
)  # fmt: skip
def test_what_convert_refuses(tmp_path, sources, options, error, fact):
    source = voc(tmp_path / "voc")
    kept = source / "Annotations" / "000001.xml"
    before = kept.read_bytes()
    words = [w.format(voc=source) for w in (*sources, str(tmp_path / "new"), *options)]
    result = run("convert", "--to", "coco", *words)
    assert isinstance(result.exception, error) and fact in str(result.exception)
    assert error is not SystemExit or result.exit_code == 2
    assert kept.read_bytes() == before and not (tmp_path / "new").exists()


def test_convert_links_and_says_which_source_lacks_a_split(tmp_path, shapes):
    source = voc(tmp_path / "voc")
    options = ("--split", "train")
    result = run("convert", source, tmp_path / "a", "--to", "voc", "--link", *options)
    assert result.exit_code == 0
    result = run("convert", source, shapes, tmp_path / "b", "--to", "coco", *options)
    assert result.exit_code == 0 and shapes.name in result.stderr and "train" in result.stderr
    assert find_dataset(tmp_path / "b").splits == ("",)


def test_the_only_split_of_version_1_0_may_be_named(tmp_path):
    source = tmp_path / "voc" / "photos"
    source.mkdir(parents=True)
    (source / "1.xml").write_text(voc_annotation(voc_object()))
    save_picture(source / "1.jpg")
    (source.parent / "readme.md").touch()
    for k, named in enumerate(((source.parent, "--split", "photos"), (f"{source.parent}@photos",))):
        result = run("convert", *named, tmp_path / str(k), "--to", "voc")
        assert result.exit_code == 0, result.output
        assert find_dataset(tmp_path / str(k)).splits == ("photos",)


@pytest.mark.parametrize("form", [None, "yolo"])
def test_a_data_set_is_divided_and_both_parts_can_be_opened(tmp_path, shapes, form):
    made, facts = tmp_path / "made", tmp_path / "facts.json"
    to = ("--to", form) if form else ()
    result = attempt("data", "split", shapes, made, "--val", "0.25", "--json", facts, *to)
    assert result.exit_code == 0, result.stderr
    train, val = (open_dataset(f"{made}@{name}") for name in ("train", "val"))
    whole = open_dataset(shapes)
    assert len(train) + len(val) == len(whole)
    assert len(val) == pytest.approx(len(whole) / 4, abs=1)
    values = json.loads(facts.read_text())
    assert values["splits"]["val"]["pictures"] == len(val)
    assert sum(values["boxes_of_class"]["val"].values()) == sum(len(s.boxes) for s in val.samples)


def test_a_broken_picture_is_named_and_two_that_look_alike_stay_together(
    shapes, tiny_model, tmp_path
):
    source = shutil.copytree(shapes, tmp_path / "set")
    broken, first, second = sorted((source / "images").iterdir())[:3]
    broken.write_bytes(b"no picture")
    with Image.open(first) as picture, Image.open(second) as other:
        picture.resize(other.size).save(second)
    found = ("--model", tiny_model, "--score", "0.3")
    split = run("split", source, tmp_path / "divided", "--to", "voc")
    label = run("label", source / "images", "--output", tmp_path / "labelled", *found)
    for result in (split, label):
        assert result.exit_code == 1, result.output
        assert "left out" in result.stderr and broken.name in result.stderr
    assert "1 picture went where one that looks alike is" in split.stdout


def test_classes_that_a_part_lacks_are_named_and_the_next_command_can_be_copied(tmp_path):
    made = tmp_path / "made here"
    result = attempt("data", "split", EXAMPLES / "instances.json", made, "--val", "0.4")
    assert result.exit_code == 0, result.stderr
    assert "cat" in result.stderr
    assert f"{made}@val" in shlex.split(result.stdout.splitlines()[-1])


def test_a_destination_that_cannot_be_is_told_before_the_work(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd34.cli.data.convert.group_scenes", None)
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", shapes)
    result = run("split", archive, tmp_path / "new", "--link")
    assert isinstance(result.exception, OptionError) and "--link" in str(result.exception)
    for words in (("split", shapes, shapes), ("label", EXAMPLES, "--output", shapes)):
        result = run(*words, *(("--model", "no.onnx") if "label" in words else ()))
        assert isinstance(result.exception, OptionError) and str(shapes) in str(result.exception)
