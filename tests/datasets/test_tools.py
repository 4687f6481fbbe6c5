"""Layouts as other tools write them, reduced; `benchmarks/data_tools.py` runs the tools themselves.

Every picture has 40 x 50 pixels and, where it has a box, the same one: [0, 10, 20, 30].
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ssd34.datasets.dataset import Kind
from ssd34.datasets.foreign import ADVICE
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.datasets.voc import NAMES
from tests.support.datasets import coco, coco_box, coco_image
from tests.support.datasets import voc_annotation as annotation
from tests.support.datasets import voc_object as element
from tests.support.pictures import save_picture
from tests.support.reading import reasons, refused

BOX = [[0, 10, 20, 30]]


def xml(name="nut", *, first=0, file_name="x.jpg"):
    """With corners that count from `first`."""
    return annotation(element(name, (first, 10 + first, 20, 30)), file_name=file_name)


def boxed(*file_names, names=("nut",), **changes):
    """A COCO file; the first picture has a box of each class."""
    images = [coco_image(id=k, file_name=name) for k, name in enumerate(file_names, start=1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    boxes = [coco_box(0, 10, 20, 20, id=k, category_id=k) for k in range(1, len(names) + 1)]
    return coco(images=images, annotations=boxes, categories=categories) | changes


ROW = "0 0.25 0.4 0.5 0.4"


def lay(root, files):
    """Files by name: text, a value for JSON, or None for a picture."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            save_picture(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def packed(root):
    return Path(shutil.make_archive(str(root), "zip", root))


def found_in(path):
    """Split to picture to boxes."""
    layout = find_dataset(path)
    opened = {split: layout.open(split) for split in layout.splits}
    for dataset in opened.values():
        assert dataset.problems == ()
        assert all(dataset.read(sample).shape == (50, 40, 3) for sample in dataset.samples)
    return {
        split: {sample.file_name: sample.boxes.tolist() for sample in dataset.samples}
        for split, dataset in opened.items()
    }


CLASS_LIST = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnut:::\na:b:1,2,3::\n"

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # VOC
    **{f"voc in {around}": (
        {f"{around}/Annotations/p.xml": xml(), f"{around}/JPEGImages/p.jpg": None},
        {"": {"p.jpg": BOX}})
       for around in ("VOC2007", "VOCdevkit/VOC2007", "data/VOCdevkit/VOC2012")},
    "voc in folders below, with a list": (
        {"Annotations/a/p.xml": xml(), "JPEGImages/a/p.jpg": None, "JPEGImages/a/q.jpg": None,
         "ImageSets/Main/train.txt": "a/p\n", "ImageSets/Main/val.txt": "a/q\n"},
        {"train": {"a/p.jpg": BOX}, "val": {"a/q.jpg": []}}),
    "voc in folders below, without a list": (
        {"Annotations/a/p.xml": xml(), "Annotations/b/p.XML": xml(), "JPEGImages/a/p.jpg": None,
         "JPEGImages/b/p.jpg": None},
        {"": {"a/p.jpg": BOX, "b/p.jpg": BOX}}),
    "voc in lower case": (
        {"annotations/p.xml": xml(), "images/p.jpg": None}, {"": {"p.jpg": BOX}}),
    "voc beside the pictures, some in a folder below": (
        {"p.xml": xml(), "p.jpg": None, "a/q.xml": xml(), "a/q.jpg": None, "r.jpg": None},
        {"": {"p.jpg": BOX, "a/q.jpg": BOX, "r.jpg": []}}),
    "voc in the folder of pictures": (
        {"images/p.xml": xml(), "images/p.jpg": None}, {"": {"p.jpg": BOX}}),
    "voc far below": (
        {"x/1/p.xml": xml(), "x/1/p.jpg": None, "y/readme.md": "-"},
        {"": {"x/1/p.jpg": BOX}}),
    "voc a folder a split, each with its annotations": (
        {"train/annotations/p.xml": xml(), "train/images/p.jpg": None,
         "val/annotations/q.xml": xml(), "val/images/q.jpg": None},
        {"train": {"p.jpg": BOX}, "val": {"q.jpg": BOX}}),
    "voc a folder a split, beside the pictures": (
        {"train/p.xml": xml(), "train/p.jpg": None, "valid/q.xml": xml(), "valid/q.jpg": None},
        {"train": {"p.jpg": BOX}, "valid": {"q.jpg": BOX}}),
    "voc in one folder": (
        {"photos/p.xml": xml(), "photos/p.jpg": None, "readme.md": "-"}, {"": {"p.jpg": BOX}}),
    "voc in folders of other names": (
        {"labels/p.xml": xml(), "data/p.jpg": None}, {"": {"p.jpg": BOX}}),
    "voc in folders of other names, of splits": (
        {"labels/train/p.xml": xml(file_name="p.jpg"), "data/train/p.jpg": None,
         "labels/val/p.xml": xml(file_name="p.jpg"), "data/val/p.jpg": None},
        {"train": {"train/p.jpg": BOX}, "val": {"val/p.jpg": BOX}}),
    "voc as usual, in folders of splits": (
        {"annotations/train/p.xml": xml(), "images/train/p.jpg": None, "images/train/q.jpg": None,
         "annotations/valid/r.xml": xml(), "images/valid/r.jpg": None},
        {"train": {"train/p.jpg": BOX, "train/q.jpg": []}, "valid": {"valid/r.jpg": BOX}}),
    "voc as usual, in a folder of one split": (
        {"annotations/train/p.xml": xml(), "images/train/p.jpg": None, "images/val/q.jpg": None},
        {"train": {"train/p.jpg": BOX}}),
    "voc in folders of splits, in and around some that are called so, too": (
        {f"val/labels/{split}/test/{name}.xml": xml(file_name=f"{name}.jpg")
         for split, name in (("train", "p"), ("val", "q"), ("test", "r"))}
        | dict.fromkeys(("val/pics/train/test/p.jpg", "val/pics/train/test/p2.jpg",
                         "val/pics/val/test/q.jpg", "val/pics/test/test/r.jpg")),
        {"train": {"val/pics/train/test/p.jpg": BOX, "val/pics/train/test/p2.jpg": []},
         "val": {"val/pics/val/test/q.jpg": BOX}, "test": {"val/pics/test/test/r.jpg": BOX}}),
    "voc as usual, in folders of splits that hold some that are called so, too": (
        {"Annotations/train/test/p.xml": xml(), "JPEGImages/train/test/p.jpg": None,
         "Annotations/test/q.xml": xml(), "JPEGImages/test/q.jpg": None,
         "JPEGImages/train/val/p2.jpg": None},
        {"train": {"train/test/p.jpg": BOX, "train/val/p2.jpg": []},
         "test": {"test/q.jpg": BOX}}),
    "voc in folders of splits whose pictures' are called otherwise": (
        {"annotations/train/p.xml": xml(file_name="p.jpg"), "images/train2017/p.jpg": None,
         "annotations/val/q.xml": xml(file_name="q.jpg"), "images/val2017/q.jpg": None,
         "images/train2017/p2.jpg": None, "images/val2017/a/q2.jpg": None},
        {"train": {"train2017/p.jpg": BOX, "train2017/p2.jpg": []},
         "val": {"val2017/q.jpg": BOX, "val2017/a/q2.jpg": []}}),
    "voc whose pictures have other names": (
        {"Annotations/1.xml": xml(file_name="C:\\pics\\p.jpg"), "JPEGImages/p.jpg": None,
         "Annotations/q.jpg.xml": xml(), "JPEGImages/q.jpg": None},
        {"": {"p.jpg": BOX, "q.jpg": BOX}}),
    "voc whose lists have blanks": (
        {"Annotations/img.xml": xml(), "JPEGImages/img.jpg": None, "JPEGImages/img 2.jpg": None,
         "Annotations/img 2  1.xml": xml(), "JPEGImages/img 2  1.jpg": None,
         "ImageSets/Main/train.txt": "img\nimg 2\n\"img 2  1\"\n",
         "ImageSets/Main/nut_train.txt": "img  1\nimg 2 -1\nimg 2  1 1\n"},
        {"train": {"img.jpg": BOX, "img 2  1.jpg": BOX, "img 2.jpg": []}}),
    "voc with lists right in ImageSets, of files": (
        {"Annotations/p.xml": xml(), "JPEGImages/p.jpg": None, "JPEGImages/q.jpg": None,
         "ImageSets/train.txt": "p.jpg\n", "ImageSets/val.txt": "q.jpg\n",
         "ImageSets/test.txt": "JPEGImages/p.jpg\n", "ImageSets/none.txt": "\n"},
        {"train": {"p.jpg": BOX}, "test": {"p.jpg": BOX}, "val": {"q.jpg": []}}),
    "voc whose lists leave out the folders": (
        {"Annotations/a/p.xml": xml(), "JPEGImages/a/p.jpg": None,
         "ImageSets/Main/train.txt": "p\n"},
        {"train": {"a/p.jpg": BOX}}),
    "voc as CVAT has it": (
        {"Annotations/p.xml": xml(), "JPEGImages/p.jpg": None, "labelmap.txt": "nut:::",
         "ImageSets/Main/default.txt": "p\n", "ImageSets/Main/nut_default.txt": "p 1\n"},
        {"": {"p.jpg": BOX}}),
    # COCO
    "coco with names that begin with the folder": (
        {"instances.json": boxed("images/p.jpg"), "images/p.jpg": None},
        {"": {"images/p.jpg": BOX}}),
    "coco of any name": ({"result.json": boxed("p.jpg"), "images/p.jpg": None, "notes.json": {}},
                         {"": {"p.jpg": BOX}}),
    "coco below annotations": (
        {"annotations/train.json": boxed("p.jpg"), "train/p.jpg": None}, {"": {"p.jpg": BOX}}),
    "coco a file a split": (
        {"annotations/coco_train2017.json": boxed("p.jpg"), "images/p.jpg": None,
         "annotations/coco_val2017.json": boxed("q.jpg"), "images/q.jpg": None},
        {"train2017": {"p.jpg": BOX}, "val2017": {"q.jpg": BOX}}),
    "coco a folder a split": (
        {"train/annotations.json": boxed("p.jpg"), "train/images/p.jpg": None,
         "valid/annotations.json": boxed("p.jpg"), "valid/images/p.jpg": None},
        {"train": {"p.jpg": BOX}, "valid": {"p.jpg": BOX}}),
    "coco, one Roboflow split": (
        {"_annotations.coco.json": boxed("p.jpg"), "p.jpg": None}, {"": {"p.jpg": BOX}}),
    "coco with pictures in a folder of any name": (
        {"labels.json": boxed("p.jpg", "a/q.jpg"), "pics/p.jpg": None, "pics/a/q.jpg": None},
        {"": {"p.jpg": BOX, "a/q.jpg": []}}),
    "coco, not divided": (
        {"annotations/instances_default.json": boxed("p.jpg"), "images/default/p.jpg": None,
         "annotations/captions_default.json": boxed("p.jpg")},
        {"": {"p.jpg": BOX}}),
    "coco with other machines' paths": (
        {"result.json": boxed("../../media/7/p.jpg", "C:\\pics\\q.jpg",
                              "https://x.example/a%20b/r%20s.jpg?t=1/2",
                              "/data/local-files/?d=up/t.jpg", "b/u.jpg", "V"),
         **dict.fromkeys(("images/p.jpg", "images/q.jpg", "images/r s.jpg", "images/t.jpg",
                          "images/a/u.jpg", "images/b/u.jpg", "images/v.jpg"))},
        {"": {"p.jpg": BOX, "q.jpg": [], "r s.jpg": [], "t.jpg": [], "b/u.jpg": [], "v.jpg": []}}),
    "coco with other machines' paths to pictures of one name": (
        {f"annotations/instances_{split}.json": boxed("/x/1.jpg") for split in ("train", "val")}
        | {"images/train/1.jpg": None, "images/val/1.jpg": None},
        {"train": {"1.jpg": BOX}, "val": {"1.jpg": BOX}}),
    "coco without sizes": (
        {"result.json": boxed(images=[{"id": 1, "file_name": "p.jpg", "width": None}]),
         "images/p.jpg": None},
        {"": {"p.jpg": BOX}}),
    "coco with accents that macOS writes in another way": (
        {"result.json": boxed("images/t\u00fcr.jpg"), "images/tu\u0308r.jpg": None},
        {"": {"tu\u0308r.jpg": BOX}}),
    # YOLO
    "yolo as Darknet has it": (
        {"obj.data": "classes = 1\ntrain = data/train.txt\nvalid = data/valid.txt\n"
                     "names = data/obj.names\nbackup = backup/\n",
         "obj.names": "nut\n", "train.txt": "data/obj_train_data/p 1.jpg\n",
         "valid.txt": "data/obj_valid_data/q.jpg\n", "obj_train_data/p 1.jpg": None,
         "obj_train_data/p 1.txt": ROW, "obj_valid_data/q.jpg": None},
        {"train": {"p 1.jpg": BOX}, "valid": None}),
    "yolo with a list of classes": (
        {"classes.txt": "nut\n\n", "images/p.jpg": None, "labels/p.txt": ROW,
         "notes.json": {"categories": [{"id": 0, "name": "nut"}], "info": {}}},
        {"": {"p.jpg": BOX}}),
    "yolo with a list of classes beside everything": (
        {"classes.txt": "nut\n", "p.jpg": None, "p.txt": ROW, "q.jpg": None},
        {"": {"p.jpg": BOX, "q.jpg": []}}),
    "yolo with a list of classes, and splits": (
        {"classes.txt": "nut\n", "images/train/p.jpg": None, "labels/train/p.txt": ROW,
         "images/val/q.jpg": None, "labels/val/q.txt": ROW},
        {"train": {"p.jpg": BOX}, "val": {"q.jpg": BOX}}),
    "yolo with a list of classes a split, in a folder of any name": (
        {"set/train/_darknet.labels": "nut", "set/train/p.jpg": None, "set/train/p.txt": ROW,
         "set/valid/_darknet.labels": "nut", "set/valid/q.jpg": None, "set/valid/q.txt": ROW},
        {"train": {"p.jpg": BOX}, "valid": {"q.jpg": BOX}}),
    "yolo without keys of splits": (
        {"data.yaml": "names: [nut]\nnc: 1\n", "images/p.jpg": None, "labels/p.txt": ROW},
        {"": {"p.jpg": BOX}}),
    "yolo without keys of splits, a folder a split": (
        {"data.yaml": "names: [nut]\n", "train/images/p.jpg": None, "train/labels/p.txt": ROW,
         "valid/images/q.jpg": None, "valid/labels/q.txt": ROW},
        {"train": {"p.jpg": BOX}, "valid": {"q.jpg": BOX}}),
    "yolo whose path leads up": (
        {"cfg/data.yaml": "path: ..\ntrain: images\nnames: [nut]\n", "images/p.jpg": None,
         "labels/p.txt": ROW},
        {"train": {"p.jpg": BOX}}),
    "yolo all in a folder whose path leads up": (
        {"training/data.yaml": "path: ..\ntrain: training/images\nnames: [nut]\n",
         "training/images/p.jpg": None, "training/labels/p.txt": ROW},
        {"train": {"p.jpg": BOX}}),
    "yolo with other machines' folders": (
        {"data.yaml": "train: /content/set/train\nval: C:\\set\\images\\val\nnames: [nut]\n",
         "train/p.jpg": None, "train/p.txt": ROW, "images/val/q.jpg": None,
         "labels/val/q.txt": ROW},
        {"train": {"p.jpg": BOX}, "val": {"q.jpg": BOX}}),
    "yolo with other machines' lists": (
        {"data.yaml": "train: /home/x/lists/train.txt\nnames: [nut]\n",
         "lists/train.txt": "/home/x/images/p.jpg\n", "images/p.jpg": None, "labels/p.txt": ROW},
        {"train": {"p.jpg": BOX}}),
    "yolo beside files of other kinds": (
        {"my.yaml": "train: images\n'names': [nut]\n", "args.yaml": "a: b\n", "images/p.jpg": None,
         "labels/p.txt": ROW},
        {"train": {"p.jpg": BOX}}),
    "yolo with valid": (
        {"data.yaml": "valid: images\nnames: [nut]\n", "images/p.jpg": None, "labels/p.txt": ROW},
        {"valid": {"p.jpg": BOX}}),
    "yolo in other letters": (
        {"data.yaml": "train: Images\nnames: [nut]\n", "Images/P.JPG": None, "Labels/P.TXT": ROW},
        {"train": {"P.JPG": BOX}}),
    "yolo with confidences": (
        {"data.yaml": "train: images\nnames: [nut]\n", "images/p.jpg": None,
         "labels/p.txt": f"{ROW} 0.875\n"},
        {"train": {"p.jpg": BOX}}),
}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read(tmp_path, name, form):
    files, expected = LAYOUTS[name]
    path = lay(tmp_path / "set", files)
    if None in expected.values():  # a split without any label file is refused
        expected = {split: found for split, found in expected.items() if found is not None}
        (path / "valid.txt").write_text("")
        (path / "obj.data").write_text((path / "obj.data").read_text().replace("valid = ", "no = "))
    assert found_in(packed(path) if form == "zip" else path) == expected


@pytest.mark.parametrize("pack", ["Windows", "bsdtar", "macOS"])
def test_it_does_not_matter_who_packed_a_zip(tmp_path, pack):
    marked = {"Windows": "{}", "bsdtar": "./{}", "macOS": "{}"}[pack]
    lay(tmp_path / "set", {"images/train/__.jpg": None})
    picture = (tmp_path / "set/images/train/__.jpg").read_bytes()
    files = {"images/train/__.jpg": picture, "labels/train/__.txt": ROW,
             "data.yaml": "train: images/train\nnames: [nut]\n"}  # fmt: skip
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(marked.format(name))
            if pack == "Windows":
                member.filename = name.replace("/", "\\")
            archive.writestr(member, data)
    if pack == "macOS":  # which does not set the flag that says so
        content = (tmp_path / "set.zip").read_bytes().replace(b"__", "\u00fc".encode())
        (tmp_path / "set.zip").write_bytes(content)
    name = "\u00fc.jpg" if pack == "macOS" else "__.jpg"
    assert found_in(tmp_path / "set.zip") == {"train": {name: BOX}}


def assumed(path):
    """What is said of the whole set; it has no problems."""
    dataset = open_dataset(path)
    assert dataset.problems == ()
    assert all(remark.kind in (Kind.ASSUMED, Kind.ALL_IGNORED) for remark in dataset.remarks)
    return dataset.assumed


@pytest.mark.parametrize(
    ("name", "facts"),
    [("voc in lower case", ("1 of 1 object",)),
     ("voc with lists right in ImageSets, of files", ("q.jpg",)),
     ("coco with pictures in a folder of any name", ()),
     ("coco with other machines' paths", ("5 pictures", "../../media/7/p.jpg", "p.jpg")),
     ("yolo whose path leads up", ()),
     ("yolo with other machines' lists", ("2 paths", "/home/x/lists/train.txt", "train.txt")),
     ("yolo with confidences", ("1 row",))],
)  # fmt: skip
def test_what_was_assumed_is_said(tmp_path, name, facts):
    files, expected = LAYOUTS[name]
    path = lay(tmp_path / "set", files)
    said = " ".join(assumed(f"{path}@{split}" if (split := list(expected)[-1]) else path))
    assert all(fact in said for fact in facts)
    assert bool(said) == bool(facts)


@pytest.mark.parametrize(
    ("lists", "objects", "names"),
    [({"labelmap.txt": CLASS_LIST}, ("nut",), ("nut", "a:b")),
     ({"labelmap.txt": CLASS_LIST}, ("nut", "background"), ("background", "nut", "a:b")),
     ({"labelmap.txt": "dog:::\ncat:::\n"}, ("cat",), ("dog", "cat")),
     ({"labelmap.txt": CLASS_LIST, "classes.txt": "bolt\nnut\n"}, ("nut",), ("bolt", "nut")),
     ({}, ("dog",), NAMES), ({}, ("dog", "nut"), ("dog", "nut"))],
)  # fmt: skip
def test_classes_of_voc(tmp_path, lists, objects, names):
    text = annotation(*(element(name) for name in objects), file_name="p.jpg")
    path = lay(tmp_path, {**lists, "Annotations/p.xml": text, "JPEGImages/p.jpg": None})
    assert open_dataset(path).labels.names == names
    assert len(open_dataset(path).samples[0].boxes) == len(objects)


@pytest.mark.parametrize("objects", [(), ("",)])
def test_without_a_class_there_are_none_of_voc(tmp_path, objects):
    text = annotation(*(element(name) for name in objects))
    path = lay(tmp_path, {"Annotations/p.xml": text, "JPEGImages/p.jpg": None})
    assert "classes.txt" in refused(path)


@pytest.mark.parametrize(
    ("lowest", "left"),
    [(1, [9.0, 0.0]), ("1.5", [9.0, 0.5]), (0, [10.0, 0.0]), ("0.5", [10.0, 0.5]),
     (-2, [10.0, 0.0])],
)  # fmt: skip
def test_a_corner_below_one_in_any_split_tells_from_where_corners_count(tmp_path, lowest, left):
    files = {f"JPEGImages/{stem}.jpg": None for stem in "pq"} | {
        "Annotations/p.xml": annotation(element(corners=(10, 10, 20, 30))),
        "Annotations/q.xml": annotation(element(corners=(lowest, 10, 20, 30))),
        "ImageSets/Main/train.txt": "p", "ImageSets/Main/val.txt": "q",
    }  # fmt: skip
    path = lay(tmp_path, files)
    splits = [open_dataset(f"{path}@{split}") for split in ("train", "val")]
    boxes = [dataset.samples[0].boxes[0] for dataset in splits]
    assert [box[0] for box in boxes] == left
    assert [box[2] for box in boxes] == [20, 20]
    assert all(len(dataset.assumed) == 1 + (left[0] == 10) for dataset in splits)


def test_a_picture_whose_xml_is_broken_is_not_one_without_objects(tmp_path):
    broken = dict.fromkeys(("Annotations/q.xml", "Annotations/r.xml"), "<annotation>")
    pictures = dict.fromkeys(("JPEGImages/p.jpg", "JPEGImages/q.jpg", "q.jpg"))
    dataset = open_dataset(lay(tmp_path, {"Annotations/p.xml": xml(), **broken, **pictures}))
    assert [sample.file_name for sample in dataset.samples] == ["p.jpg"]
    assert [problem.where for problem in dataset.problems] == list(broken)


def test_a_picture_whose_xml_is_broken_is_of_no_other_split(tmp_path):
    files = {"Annotations/train/p.xml": xml(file_name="p.jpg"), "JPEGImages/p.jpg": None,
             "Annotations/val/q.xml": "<annotation>", "JPEGImages/q.jpg": None}  # fmt: skip
    path = lay(tmp_path, files)
    assert [one.file_name for one in open_dataset(f"{path}@train").samples] == ["p.jpg"]
    assert "q.jpg" not in " ".join(assumed(f"{path}@train"))
    assert "Annotations/val/q.xml" in refused(f"{path}@val")
    assert [problem.where for problem in open_dataset(path).problems] == ["Annotations/val/q.xml"]


def test_a_broken_xml_takes_no_picture_out_of_another_splits_folder(tmp_path):
    files = {"Annotations/train/1.xml": "<annotation>", "JPEGImages/val/1.jpg": None,
             "Annotations/train/2.xml": xml(file_name="2.jpg"), "JPEGImages/train/2.jpg": None,
             "Annotations/val/3.xml": xml(file_name="3.jpg"),
             "JPEGImages/val/3.jpg": None}  # fmt: skip
    path = lay(tmp_path, files)
    for split, names in (("train", ["train/2.jpg"]), ("val", ["val/1.jpg", "val/3.jpg"])):
        samples = open_dataset(f"{path}@{split}").samples
        assert sorted(sample.file_name for sample in samples) == names


@pytest.mark.parametrize("extra", ["r.jpg", "test/r.jpg"])
def test_a_picture_without_xml_of_no_split_is_told_of(tmp_path, extra):
    files = {"Annotations/train/p.xml": xml(file_name="p.jpg"), "JPEGImages/p.jpg": None,
             "Annotations/val/q.xml": xml(file_name="q.jpg"), "JPEGImages/q.jpg": None,
             f"JPEGImages/{extra}": None}  # fmt: skip
    path = lay(tmp_path, files)
    assert found_in(path) == {"train": {"p.jpg": BOX}, "val": {"q.jpg": BOX}}
    for split in ("train", "val"):
        assert extra in " ".join(assumed(f"{path}@{split}"))


@pytest.mark.parametrize(
    ("name", "split", "pictures"),
    [("voc in folders of other names, of splits", None, ["train/p.jpg", "val/p.jpg"]),
     ("voc as usual, in folders of splits", None, ["train/p.jpg", "valid/r.jpg", "train/q.jpg"]),
     ("voc as usual, in a folder of one split", None, ["train/p.jpg", "val/q.jpg"]),
     ("voc in one folder", "photos", ["p.jpg"]),
     ("voc as CVAT has it", "default", ["p.jpg"]),
     ("yolo with a list of classes a split, in a folder of any name", None,
      ["train/p.jpg", "valid/q.jpg"])],
)  # fmt: skip
def test_what_version_1_0_read_as_one_or_under_a_name_still_is(tmp_path, name, split, pictures):
    path = lay(tmp_path, LAYOUTS[name][0])
    assert [one.file_name for one in find_dataset(path).open(split).samples] == pictures
    if split:
        assert open_dataset(f"{path}@{split}").labels == open_dataset(path).labels


def test_several_coco_files_are_listed_and_one_can_be_named(tmp_path):
    files = {"a.json": boxed("p.jpg"), "b.json": boxed("q.jpg"), "p.jpg": None, "q.jpg": None}
    path = lay(tmp_path / "set", files)
    for root in (path, packed(path)):
        message = refused(root)
        assert "a.json" in message and "b.json" in message
        assert [s.file_name for s in open_dataset(f"{root}/b.json").samples] == ["q.jpg"]
        assert "no.json" in refused(f"{root}/no.json")


@pytest.mark.parametrize(
    ("names", "there", "usable"),
    [(("x/p.jpg", "y/p.jpg"), ("p.jpg",), 0),  # of two pictures
     (("x/p.jpg",), ("a/p.jpg", "b/p.jpg"), 0),  # one of two
     (("x/p.jpg", "p.jpg"), ("p.jpg",), 1),  # another's
     (("../train/p.jpg",), ("val/p.jpg",), 0)],  # another split's
)  # fmt: skip
def test_a_picture_that_cannot_be_told_is_left_out(tmp_path, names, there, usable):
    files = {f"pics/{name}": None for name in (*there, "z.jpg")}
    dataset = open_dataset(lay(tmp_path, {"result.json": boxed("z.jpg", *names), **files}))
    assert len(dataset) == 1 + usable
    assert [problem.kind for problem in dataset.problems] == [Kind.MISSING] * (len(names) - usable)


def test_pictures_that_are_nowhere_are_refused_with_what_to_do(tmp_path):
    values = boxed(images=[{"id": 1, "file_name": "/data/upload/p.jpg", "width": None}])
    message = refused(lay(tmp_path / "coco", {"result.json": values}))
    assert "/data/upload/p.jpg" in message and "FILE.json@FOLDER" in message
    assert "JPEGImages" in refused(lay(tmp_path / "voc", {"Annotations/p.xml": xml()}))


def test_a_category_that_only_groups_is_no_class(tmp_path):
    categories = [{"id": 0, "name": "things", "supercategory": "none"}] + [
        {"id": k, "name": name, "supercategory": "things"}
        for k, name in enumerate(("cup", "fork"), start=1)
    ]
    for used, names in ((1, ("cup", "fork")), (0, ("things", "cup", "fork"))):
        boxes = [coco_box(0, 10, 20, 20, category_id=used)]
        values = boxed("p.jpg", categories=categories, annotations=boxes)
        path = lay(tmp_path / str(used), {"result.json": values, "p.jpg": None})
        assert open_dataset(path).labels.names == names
        assert len(assumed(path)) == used


@pytest.mark.parametrize("others", [0, 1])
def test_a_set_of_nothing_but_crowds_is_told(tmp_path, others):
    boxes = [coco_box(0, 10, 20, 20, id=k, category_id=1, iscrowd=1) for k in range(2)]
    boxes += [coco_box(0, 10, 20, 20, id=9, category_id=1)] * others
    path = lay(tmp_path, {"result.json": boxed("p.jpg", annotations=boxes), "p.jpg": None})
    remarks = open_dataset(path).remarks
    assert [remark.kind for remark in remarks] == [Kind.ALL_IGNORED] * (1 - others)


@pytest.mark.parametrize("listed", [("bolt.jpg", "bolt.png"), ("bolt.jpg",)])
def test_two_pictures_of_one_label_file_are_told_also_where_one_is_not_listed(tmp_path, listed):
    files = dict.fromkeys(("bolt.jpg", "bolt.png", "nut.png")) | {
        "bolt.txt": ROW, "nut.txt": ROW, "data.yaml": "train: train.txt\nnames: [nut]\n",
        "train.txt": "\n".join([*listed, "nut.png"]),
    }  # fmt: skip
    dataset = open_dataset(lay(tmp_path, files))
    alone = len(listed) == 1
    kept = [*listed, "nut.png"] if alone else ["nut.png"]
    assert [sample.file_name for sample in dataset.samples] == kept
    assert [problem.where for problem in dataset.problems] == ([] if alone else list(listed))
    assert ["bolt.jpg" in said for said in dataset.assumed] == [True] * alone


def test_links_inside_the_folder_are_followed_and_others_named(tmp_path):
    files = {"pics/p.jpg": None, "yolo/train/p.txt": ROW, "yolo/data.yml": "train: /x/yolo/train"}
    path = lay(tmp_path / "set", files)
    (path / "yolo" / "data.yml").write_text(f"train: {path}/yolo/train\nnames: [nut]\n")
    (path / "yolo" / "train" / "p.jpg").symlink_to(path / "pics" / "p.jpg")
    assert found_in(path) == {"train": {"p.jpg": BOX}}
    assert "cp -rL" in refused(path / "yolo")


@pytest.mark.parametrize(
    ("files", "fact"),
    [({}, "export the pictures"),
     ({"images/q.jpg": None}, "none of 1 picture has a label file"),
     ({"train.txt": "data/p.jpg", "obj.data": "train = train.txt\nnames = classes.txt"},
      "line 1: no such picture: data/p.jpg"),
     ({"obj.data": "names = classes.txt"}, "names no pictures"),
     ({"data.yaml": "names: [nut]"}, "names no pictures"),
     ({"obj.data": "train = images"}, "obj.names")],
)  # fmt: skip
def test_yolo_says_what_it_lacks(tmp_path, files, fact):
    """Label Studio and CVAT export pictures only where they are asked for."""
    path = lay(tmp_path, {"classes.txt": "nut\n", "labels/p.txt": ROW, **files})
    assert fact in refused(path)


@pytest.mark.parametrize(
    ("files", "form"),
    [({"annotations.xml": "<annotations><version>1.1</version></annotations>"}, "CVAT XML"),
     ({"a/p.json": {"version": "5", "shapes": [], "imagePath": "p.jpg"}}, "LabelMe"),
     ({"Annotations/p.xml": "<annotation><object><polygon><pt/></polygon></object></annotation>",
       "Images/p.jpg": None}, "LabelMe XML"),
     ({"x.json": [{"id": 1, "data": {"image": "p.jpg"}, "annotations": []}]}, "Label Studio JSON"),
     ({"x.json": [{"image": "p.jpg", "id": 1, "annotation_id": 3}]}, "Label Studio JSON"),
     ({"x.json": [{"id": 1, "annotations": [{"completed_by": 1, "result": ["x" * 300_000]}]}]},
      "Label Studio JSON"),
     ({"1.json": {"id": 1, "annotations": [], "data": {"image": "p.jpg"}}}, "Label Studio JSON"),
     ({"p.json": {"flags": {}, "imageData": "x" * 300_000, "shapes": []}}, "LabelMe"),
     ({"annotations/train.json": {"dm_format_version": "1.0", "categories": {}, "items": []}},
      "Datumaro JSON"),
     ({"a.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"}, "Open Images"),
     ({"label_2/p.txt": "Car 0.0 0 -1.57 5.0 6 7 8 1 2 3 4 5 6 0.1\n"}, "KITTI"),
     ({"via.json": {"_via_settings": {}, "_via_img_metadata": {}}}, "VIA"),
     ({"via.json": {"p.jpg12": {"filename": "p.jpg", "size": 12, "regions": []}}}, "VIA"),
     ({"x.json": [{"image": "p.jpg", "annotations": [{"label": "a", "coordinates": {}}]}]},
      "CreateML"),
     ({"wider_face_train_bbx_gt.txt": "p.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n"}, "WIDER FACE"),
     ({"labels/p.txt": "imagesource:x\ngsd:1\n1 2 3 2 3 4 1 4 plane 0\n"}, "DOTA"),
     ({"labels/p.txt": ROW, "images/p.jpg": None}, "YOLO without classes"),
     ({"train/_annotations.txt": "p.jpg 1,2,3,4,0\n"}, "Keras TXT"),
     ({"labels/p.txt": "1 2 3 2 3 4 1 4 plane 0\n"}, "DOTA"),
     ({"ds/ann/p.jpg.json": {"size": {}, "objects": [{"classTitle": "nut"}]}}, "Supervisely"),
     ({"x.ndjson": {"data_row": {"id": "1"}, "projects": {}}}, "Labelbox NDJSON"),
     ({"via.csv": "filename,file_size,region_shape_attributes\n"}, "VIA"),
     ({"train/_annotations.csv": "filename,class,xmin,ymin\n"}, "a table of boxes (CSV)"),
     ({"x.json": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}, "COCO results")],
)  # fmt: skip
@pytest.mark.parametrize("given", ["folder", "zip", "file"])
def test_forms_that_are_not_read_are_named_with_what_to_do(tmp_path, files, form, given):
    path = lay(tmp_path / "set", files)
    file = path / next(iter(files))
    message = refused({"folder": path, "zip": packed(path), "file": file}[given])
    assert f"{form}, " in message and ADVICE[form] in message and file.name in message


def test_a_folder_of_something_else_says_what_lies_there(tmp_path):
    assert "readme.md" in refused(lay(tmp_path, {"readme.md": "-", "p.jpg": None}))


def test_a_confidence_is_no_outline_and_no_key_point(tmp_path):
    """And nothing else may stand there."""
    files = {"images/p.jpg": None, "labels/p.txt": f"{ROW} 1\n{ROW} 1.5\n{ROW} 17\n"}
    config = "train: images\nnames: [nut]\n"
    dataset = open_dataset(lay(tmp_path / "a", {**files, "data.yaml": config}))
    assert len(dataset.samples[0].boxes) == 1 and len(reasons(dataset)) == 2
    key_points = lay(tmp_path / "b", {**files, "data.yaml": f"{config}kpt_shape: [1, 1]\n"})
    assert len(open_dataset(key_points).samples[0].boxes) == 3 and assumed(key_points) == ()


@pytest.mark.parametrize(
    ("train", "val", "names"),
    [("nut\nbolt\n", "bolt\nnut\n", None), ("nut\n\nbolt", "nut\nbolt", None),
     ("nut\nbolt\n", "nut\n\n", ("nut", "bolt")), ("nut", "nut\nbolt", ("nut", "bolt"))],
)  # fmt: skip
def test_lists_of_classes_may_be_of_other_lengths_but_not_differ(tmp_path, train, val, names):
    """labelImg writes one into each folder, in the order in which classes were first used."""
    files = {f"{split}/p.jpg": None for split in ("train", "val")} | {
        "train/p.txt": ROW, "train/classes.txt": train, "val/p.txt": ROW, "val/classes.txt": val,
    }  # fmt: skip
    path = lay(tmp_path, files)
    if names:
        assert [open_dataset(f"{path}@{s}").labels.names for s in ("train", "val")] == [names] * 2
    else:
        assert "train/classes.txt and val/classes.txt" in refused(path)
    assert open_dataset(path / "val").labels.names == tuple(val.split())


@pytest.mark.parametrize("where", ["", "labels/", "labels/a/", "images/"])
def test_a_list_of_classes_where_nothing_else_of_the_set_lies_is_none(tmp_path, where):
    files = {"images/a/p.jpg": None, "labels/a/p.txt": ROW, f"{where}classes.txt": "nut",
             "a/classes.txt": "bolt", "a/notes.txt": "-"}  # fmt: skip
    assert open_dataset(lay(tmp_path, files)).labels.names == ("nut",)


def test_valid_and_val_are_one_split(tmp_path):
    path = lay(tmp_path, LAYOUTS["yolo with valid"][0])
    assert len(open_dataset(f"{path}@val")) == len(open_dataset(f"{path}@valid")) == 1
    assert "valid" in refused(f"{path}@test")
    whole = lay(tmp_path / "whole", LAYOUTS["coco of any name"][0])
    assert "leave @val out" in refused(f"{whole}@val")
