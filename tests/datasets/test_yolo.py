from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Kind
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.errors import DatasetError, ImageError
from tests.support.datasets import yolo_folder as yolo
from tests.support.pictures import save_picture as picture
from tests.support.reading import only, reasons, refused


def train(folder):
    return open_dataset(f"{folder}@train")


EXPECTED = [[15, 20, 25, 30]]


@pytest.mark.parametrize("form", ["folder", "file", "zip", "zip with a folder around"])
def test_folder_file_or_zip(tmp_path, form):
    path = yolo(tmp_path / "around" / "set")
    if form == "file":
        path = path / "data.yaml"
    elif form.startswith("zip"):
        root = path if form == "zip" else path.parent
        path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    layout = find_dataset(path)
    assert (layout.format, layout.splits) == ("yolo", ("train", "val"))
    dataset = train(path)
    sample = only(dataset)
    assert (sample.file_name, sample.image_id) == ("1.png", 1)
    assert (sample.width, sample.height) == (40, 50)
    assert sample.boxes.tolist() == EXPECTED and sample.areas.tolist() == [100]
    assert dataset.labels == LabelSet(("nut", "bolt"), (1, 2)) and dataset.problems == ()
    assert dataset.read(sample).shape == (50, 40, 3)
    assert only(open_dataset(f"{path}@val")).labels.tolist() == [2]


@pytest.mark.parametrize(
    "entry",
    ["images/train", "./images/train/", "images\\train", "../images/train", ["images/train"],
     "list.txt", "lists/list.txt", "absolute.txt", ["list.txt", "images/val"]],
)  # fmt: skip
def test_entries(tmp_path, entry):
    path = yolo(tmp_path / "set", config={"train": entry})
    (path / "lists").mkdir()
    (path / "list.txt").write_text("./images/train/1.png\n\n")
    (path / "absolute.txt").write_text(f"{path / 'images' / 'train' / '1.png'}\n")
    (path / "lists" / "list.txt").write_text("../images/train/1.png\n")
    dataset = train(path)
    assert dataset.samples[0].boxes.tolist() == EXPECTED
    if isinstance(entry, list) and len(entry) == 2:
        assert [sample.file_name for sample in dataset.samples] == ["train/1.png", "val/1.png"]
        assert [sample.image_id for sample in dataset.samples] == [1, 2]


@pytest.mark.parametrize("root", ["..", "elsewhere", "/content/drive/set", "set"])
def test_a_path_of_another_machine_is_left_out(tmp_path, root):
    path = yolo(tmp_path / "set", config={"path": root})
    assert only(train(path)).boxes.tolist() == EXPECTED


def test_path_relative_absolute_and_above_the_data(tmp_path):
    yolo(tmp_path / "set")
    for name, root in (("a.yaml", "set"), ("b.yaml", "./set/"), ("c.yaml", str(tmp_path / "set"))):
        config = {"path": root, "train": "images/train", "names": ["nut", "bolt"]}
        (tmp_path / name).write_text(yaml.safe_dump(config))
        assert only(open_dataset(tmp_path / name)).boxes.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("root", "images", "labels"),
    [("set", "train", "train"), ("images", "images/images", "images/labels")],
)
def test_labels_lie_in_the_place_of_the_last_folder_called_images(tmp_path, root, images, labels):
    """Else beside the pictures."""
    root = tmp_path / root
    picture(root / images / "1.png")
    (root / labels).mkdir(exist_ok=True)
    (root / labels / "1.txt").write_text("0 0.5 0.5 0.25 0.2")
    (root / "data.yaml").write_text(f"train: {images}\nnames: [nut]")
    assert only(open_dataset(root)).boxes.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["nut", "bolt"], ("nut", "bolt")), ({0: "nut", 1: "bolt"}, ("nut", "bolt")),
     ({1: "bolt", 0: "nut"}, ("nut", "bolt")),
     ({0: "nut", 1: "bolt", 9: "gear"}, ("nut", "bolt", "gear"))],
)  # fmt: skip
def test_names(tmp_path, names, expected):
    dataset = train(yolo(tmp_path / "set", "0 .5 .5 .1 .1\n1 .5 .5 .1 .1", config={"names": names}))
    assert dataset.labels.names == expected
    assert only(dataset).labels.tolist() == [1, 2]


def test_names_that_yaml_takes_for_something_else(tmp_path):
    text = "train: images/train\nnames: [no, 1, 2.50, null, 2001-01-01, ~]\n"
    labels = train(yolo(tmp_path / "set", text=text)).labels
    assert labels.names == ("no", "1", "2.50", "null", "2001-01-01", "~")


@pytest.mark.parametrize("again", ["00", "+0", " 0", "0_0"])
def test_a_class_number_of_two_names_is_refused(tmp_path, again):
    yolo(tmp_path, text=f'train: images/train\nnames: {{"0": nut, "{again}": bolt}}\n')
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert f"0, {again}" in str(caught.value) and "data.yaml" in str(caught.value)


def test_pictures_that_share_a_label_file_are_left_out(tmp_path):
    yolo(tmp_path)
    for name in ("1.jpg", "2.png"):
        picture(tmp_path / "images" / "train" / name)
    dataset = train(tmp_path)
    assert [sample.file_name for sample in dataset.samples] == ["2.png"]
    found = [(problem.where, problem.kind) for problem in dataset.problems]
    assert found == [("1.jpg", Kind.PICTURE_TWICE), ("1.png", Kind.PICTURE_TWICE)]


def test_splits_that_are_empty_or_not_there_are_not_offered(tmp_path):
    text = "train: images/train\nval:\ntest: ''\nnames: [nut]\n"
    assert find_dataset(yolo(tmp_path / "a", text=text)).splits == ("train",)
    path = yolo(tmp_path / "b", config={"test": "images/test"})
    assert find_dataset(path).splits == ("train", "val")


def test_missing_and_empty_label_files_are_pictures_without_boxes(tmp_path):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    picture(path / "images" / "train" / "3.png")
    (path / "labels" / "train" / "3.txt").write_text("\n \n")
    dataset = train(path)
    assert [len(sample.boxes) for sample in dataset.samples] == [1, 0, 0]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("rows", "config", "boxes"),
    [("0 0.1 0.2 0.5 0.2 0.5 0.6\n0 0.25 0.1 0.75 0.1 0.75 0.9 0.25 0.9\n", {},
      [[4, 10, 20, 30], [10, 5, 30, 45]]),
     ("0 0.5 0.5 0.25 0.2 0.9 0.9 2 0.1 0.1 2\n", {"kpt_shape": [2, 3]}, EXPECTED),
     ("0 0 1 0.5 0.2\n", {}, [[0, 45, 10, 50]]),
     (b"\xef\xbb\xbf0.0\t5e-1 0.5   +.25 2E-1\r\n", {}, EXPECTED)],
    ids=["outlines", "key points", "over the edge", "marks, tabs and exponents"],
)  # fmt: skip
def test_rows_become_boxes(tmp_path, rows, config, boxes):
    assert only(train(yolo(tmp_path / "set", rows, config=config))).boxes.tolist() == boxes


@pytest.mark.parametrize(
    ("kind", "row"),
    [*((Kind.BROKEN_ENTRY, row) for row in (
        "0 0.5 0.5 0.25", "0", "0 0.5 0.5 0.25 0.2 9", "0 0.1 0.2 0.5 0.2 0.5 0.6 0.7",
        "nut 0.5 0.5 0.25 0.2", "0 0.5 0,5 0.25 0.2", "0 nan 0.5 0.25 0.2", "0 inf 0.5 0.25 0.2",
        "0 20 25 10 10", "0 -0.5 0.5 0.25 0.2", "x" * 100_000)),
     *((Kind.UNKNOWN_CLASS, f"{number} 0.5 0.5 0.25 0.2") for number in (2, -1, 0.5, "nan")),
     (Kind.NO_AREA, "0 0.5 0.5 0 0.2"), (Kind.NO_AREA, "0 0.5 0.5 0.25 -0.001"),
     (Kind.OUTSIDE, "0 -0.005 0.5 0.001 0.2")],
    ids=range(18),
)  # fmt: skip
def test_malformed_rows_are_reported_with_file_and_line(tmp_path, kind, row):
    dataset = train(yolo(tmp_path / "set", f"\n{row}\n0 0.5 0.5 0.25 0.2\n"))
    [reason] = reasons(dataset)
    assert reason.startswith("1.png: labels/train/1.txt line 2: ") and len(reason) < 400
    assert [problem.kind for problem in dataset.problems] == [kind]
    assert only(dataset).boxes.tolist() == EXPECTED


def test_unreadable_files_are_reported(tmp_path):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    (path / "labels" / "train" / "2.txt").write_bytes(b"\xff\xfe0")
    (path / "images" / "train" / "3.png").write_bytes(b"no picture")
    dataset = train(path)
    assert len(dataset) == 1
    label, other = sorted(reasons(dataset))
    assert "labels/train/2.txt" in label and other.startswith("3.png: ")


def test_a_list_with_missing_pictures_and_such_outside(tmp_path):
    picture(tmp_path / "images" / "secret.png")
    path = yolo(tmp_path / "set", config={"train": "list.txt"})
    outside = ["../images/secret.png", str(tmp_path / "images" / "secret.png"), "a\0b.png",
               "/a\0b.png"]  # fmt: skip
    one = "images/train/1.png"
    (path / "list.txt").write_text("\n".join([one, "no.png", *outside, one]))
    dataset = train(path)
    assert len(dataset) == 1
    assert [reason.split(": no such")[0] for reason in reasons(dataset)] == [
        *(f"list.txt: line {number}" for number in range(2, 7)), "1.png: is listed 2 times"
    ]  # fmt: skip


ALIASES = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]


@pytest.mark.parametrize(
    ("text", "fact"),
    [("names: [a", ""), ("\0", ""), ("[" * 600, ""), ("", "names"), ("- a", "names"),
     ("!!python/object/apply:os.system ['echo hacked']", "names"),
     ("train: images/train", "names"), ("names: [nut]", "train"),
     *((f"names: [nut]\ntrain: {bad}", "train") for bad in ("{a: b}", "[[a]]")),
     *((f"names: {bad}\ntrain: images/train", "names") for bad in (
         "3", "[]", "[a, [b]]", "{a: b}", "{-1: b}")),
     ("names: [a, a]\ntrain: images/train", "'a'"),
     *((f"names: [a]\ntrain: {place}", place) for place in (
         "nothing", "/etc", "../../other", "labels")),
     ("names: [a]\npath: /\ntrain: etc", "train: etc"),
     ("\n".join(["a0: &a0 [x, x, x, x]", *ALIASES, "names: *a11", "train: *a11"]), "train"),
     ("x" * 2_000_000, "MiB")],
    ids=range(23),
)  # fmt: skip
def test_unusable_yaml(tmp_path, text, fact):
    (tmp_path / "other").mkdir()
    path = yolo(tmp_path / "up" / "set", text=text)
    message = refused(path)
    assert fact in message and message.startswith(f"{path}: ")


def test_no_label_file_at_all_is_a_wrong_layout(tmp_path):
    path = yolo(tmp_path / "set")
    shutil.rmtree(path / "labels")
    message = refused(f"{path}@train")
    assert "none of 1 picture has a label file" in message and "labels/train/1.txt" in message


def test_links_that_lead_out_are_not_followed(tmp_path):
    path = yolo(tmp_path / "set", config={"test": "images/linked"})
    picture(tmp_path / "secret" / "1.png")
    (path / "images" / "linked").symlink_to(tmp_path / "secret")
    (path / "images" / "train" / "9.png").symlink_to(tmp_path / "secret" / "1.png")
    dataset = train(path)
    assert find_dataset(path).splits == ("train", "val")
    assert len(dataset) == 1
    assert "leads out" in reasons(dataset)[0]
    with pytest.raises(ImageError, match="leads out"):
        dataset.images.read_bytes("9.png")


@pytest.mark.parametrize("there", [True, False])
def test_a_label_file_that_is_a_lost_link_is_not_a_picture_without_boxes(tmp_path, there):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    (path / "labels" / "train" / "2.txt").symlink_to(tmp_path / "2.txt")
    if there:
        (tmp_path / "2.txt").write_text("0 0.5 0.5 0.25 0.2\n")
    dataset = train(path)
    assert [s.file_name for s in dataset.samples] == ["1.png"]
    [problem] = dataset.problems
    assert problem.where == "2.png"
    assert "labels/train/2.txt: the name leads out of" in problem.reason


def test_labels_beside_a_picture_below_images(tmp_path):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    (path / "images" / "train" / "2.txt").write_text("0 0.5 0.5 0.25 0.2\n")
    (path / "images" / "train" / "1.txt").write_text("1 0.5 0.5 1 1\n")
    assert [s.boxes.tolist() for s in train(path).samples] == [EXPECTED, EXPECTED]
    shutil.rmtree(path / "labels")
    assert len(train(path).samples[0].boxes) == 1
