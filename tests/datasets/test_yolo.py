from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Kind
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.errors import DatasetError, ImageError
from tests.support.reading import only, reasons, refused


def picture(path, width=40, height=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "red").save(path)


def yolo(folder, rows="0 0.5 0.5 0.25 0.2\n", *, config=None, text=None):
    """A folder with data.yaml and one picture a split, the rows being those of train."""
    for split, content in (("train", rows), ("val", "1 0.5 0.5 1 1\n")):
        picture(folder / "images" / split / "1.png")
        file = folder / "labels" / split / "1.txt"
        file.parent.mkdir(parents=True)
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    values = {"train": "images/train", "val": "images/val", "names": ["nut", "bolt"]}
    values |= config or {}
    (folder / "data.yaml").write_text(yaml.safe_dump(values) if text is None else text)
    return folder


def train(folder):
    return open_dataset(f"{folder}@train")


EXPECTED = [[15, 20, 25, 30]]


# --- layout ---------------------------------------------------------------------------------


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
    [
        "images/train",
        "./images/train/",
        "images\\train",
        "../images/train",
        ["images/train"],
        "list.txt",
        "lists/list.txt",
        ["list.txt", "images/val"],
    ],
)
def test_entries(tmp_path, entry):
    path = yolo(tmp_path / "set", config={"train": entry})
    (path / "lists").mkdir()
    (path / "list.txt").write_text("./images/train/1.png\n\n")
    (path / "lists" / "list.txt").write_text("../images/train/1.png\n")
    dataset = train(path)
    assert dataset.samples[0].boxes.tolist() == EXPECTED
    if isinstance(entry, list) and len(entry) == 2:
        assert [sample.file_name for sample in dataset.samples] == ["train/1.png", "val/1.png"]
        assert [sample.image_id for sample in dataset.samples] == [1, 2]


@pytest.mark.parametrize("root", ["..", "elsewhere", "/content/drive/set", "set"])
def test_a_path_of_another_machine_is_left_out(tmp_path, root):
    assert (
        train(yolo(tmp_path / "set", config={"path": root})).samples[0].boxes.tolist() == EXPECTED
    )


def test_path_relative_absolute_and_above_the_data(tmp_path):
    yolo(tmp_path / "set")
    for name, root in (("a.yaml", "set"), ("b.yaml", "./set/"), ("c.yaml", str(tmp_path / "set"))):
        config = {"path": root, "train": "images/train", "names": ["nut", "bolt"]}
        (tmp_path / name).write_text(yaml.safe_dump(config))
        assert only(open_dataset(tmp_path / name)).boxes.tolist() == EXPECTED


def test_a_list_may_hold_absolute_paths(tmp_path):
    path = yolo(tmp_path / "set", config={"train": "list.txt"})
    (path / "list.txt").write_text(f"{path / 'images' / 'train' / '1.png'}\n")
    assert only(train(path)).boxes.tolist() == EXPECTED


def test_labels_beside_the_pictures_where_nothing_is_called_images(tmp_path):
    picture(tmp_path / "set" / "train" / "1.jpg")
    (tmp_path / "set" / "train" / "1.txt").write_text("0 0.5 0.5 0.25 0.2")
    (tmp_path / "set" / "data.yaml").write_text("train: train\nnames: [nut]")
    assert only(open_dataset(tmp_path / "set")).boxes.tolist() == EXPECTED


def test_only_the_last_folder_called_images_is_replaced(tmp_path):
    root = tmp_path / "images"
    picture(root / "images" / "images" / "1.png")
    (root / "images" / "labels").mkdir()
    (root / "images" / "labels" / "1.txt").write_text("0 0.5 0.5 0.25 0.2")
    (root / "data.yaml").write_text("train: images/images\nnames: [nut]")
    assert only(open_dataset(root)).boxes.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["nut", "bolt"], ("nut", "bolt")),
        ({0: "nut", 1: "bolt"}, ("nut", "bolt")),
        ({1: "bolt", 0: "nut"}, ("nut", "bolt")),
        ({0: "nut", 1: "bolt", 9: "gear"}, ("nut", "bolt", "gear")),
    ],
)
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
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        open_dataset(tmp_path)


def test_pictures_that_share_a_label_file_are_left_out(tmp_path):
    yolo(tmp_path)
    for name in ("1.jpg", "2.png"):
        picture(tmp_path / "images" / "train" / name)
    dataset = train(tmp_path)
    assert [sample.file_name for sample in dataset.samples] == ["2.png"]
    found = [(problem.where, problem.kind) for problem in dataset.problems]
    assert found == [("1.jpg", Kind.PICTURE_TWICE), ("1.png", Kind.PICTURE_TWICE)]


def test_coco_names_get_their_official_ids(tmp_path):
    dataset = train(yolo(tmp_path / "set", config={"names": ["tv", "person"]}))
    assert dataset.labels == LabelSet(("tv", "person"), (72, 1))


def test_empty_splits_are_none(tmp_path):
    text = "train: images/train\nval:\ntest: ''\nnames: [nut]\n"
    assert find_dataset(yolo(tmp_path / "set", text=text)).splits == ("train",)


def test_splits_that_are_not_there_are_not_offered(tmp_path):
    path = yolo(tmp_path / "set", config={"test": "images/test"})
    assert find_dataset(path).splits == ("train", "val")


# --- rows -----------------------------------------------------------------------------------


def test_missing_and_empty_label_files_are_pictures_without_boxes(tmp_path):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    picture(path / "images" / "train" / "3.png")
    (path / "labels" / "train" / "3.txt").write_text("\n \n")
    dataset = train(path)
    assert [len(sample.boxes) for sample in dataset.samples] == [1, 0, 0]
    assert dataset.problems == ()


def test_outlines_become_their_bounding_boxes(tmp_path):
    rows = "1 0.1 0.2 0.5 0.2 0.5 0.6\n0 0.25 0.1 0.75 0.1 0.75 0.9 0.25 0.9\n"
    sample = only(train(yolo(tmp_path / "set", rows)))
    assert sample.boxes.tolist() == [[4, 10, 20, 30], [10, 5, 30, 45]]
    assert sample.labels.tolist() == [2, 1]


def test_key_points_after_the_box_are_left_out(tmp_path):
    rows = "0 0.5 0.5 0.25 0.2 0.9 0.9 2 0.1 0.1 2\n"
    path = yolo(tmp_path / "set", rows, config={"kpt_shape": [2, 3]})
    assert only(train(path)).boxes.tolist() == EXPECTED


def test_boxes_are_cut_to_the_picture(tmp_path):
    sample = only(train(yolo(tmp_path / "set", "0 0 1 0.5 0.2\n")))
    assert sample.boxes.tolist() == [[0, 45, 10, 50]]


def test_fractions_with_a_byte_order_mark_tabs_and_exponents(tmp_path):
    rows = b"\xef\xbb\xbf0.0\t5e-1 0.5   +.25 2E-1\r\n"
    assert only(train(yolo(tmp_path / "set", rows))).boxes.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 0.5 0.25", "expected a class and 4 numbers"),
        ("0", "expected a class and 4 numbers"),
        ("0 0.5 0.5 0.25 0.2 0.9", "expected a class and 4 numbers"),
        ("0 0.1 0.2 0.5 0.2 0.5 0.6 0.7", "expected a class and 4 numbers"),
        ("nut 0.5 0.5 0.25 0.2", "could not convert"),
        ("0 0.5 0,5 0.25 0.2", "could not convert"),
        ("2 0.5 0.5 0.25 0.2", "unknown class number: 2 "),
        ("-1 0.5 0.5 0.25 0.2", "unknown class number: -1 "),
        ("0.5 0.5 0.5 0.25 0.2", "unknown class number: 0.5 "),
        ("nan 0.5 0.5 0.25 0.2", "unknown class number: nan "),
        ("0 nan 0.5 0.25 0.2", "expected fractions"),
        ("0 inf 0.5 0.25 0.2", "expected fractions"),
        ("0 20 25 10 10", "expected fractions"),
        ("0 -0.5 0.5 0.25 0.2", "expected fractions"),
        ("0 0.5 0.5 0 0.2", "no area"),
        ("0 0.5 0.5 0.25 -0.001", "no area"),
        ("0 -0.005 0.5 0.001 0.2", "outside the picture"),
        ("x" * 100_000, "could not convert"),
    ],
)
def test_malformed_rows_are_reported_with_file_and_line(tmp_path, row, reason):
    dataset = train(yolo(tmp_path / "set", f"\n{row}\n0 0.5 0.5 0.25 0.2\n"))
    [problem] = reasons(dataset)
    assert problem.startswith("1.png: labels/train/1.txt line 2: ") and reason in problem
    assert len(problem) < 400
    assert only(dataset).boxes.tolist() == EXPECTED


def test_a_label_file_that_is_no_text_is_reported(tmp_path):
    path = yolo(tmp_path / "set")
    picture(path / "images" / "train" / "2.png")
    (path / "labels" / "train" / "2.txt").write_bytes(b"\xff\xfe0")
    dataset = train(path)
    assert len(dataset) == 1
    assert "labels/train/2.txt: not UTF-8" in reasons(dataset)[0]


def test_an_unreadable_picture_is_reported(tmp_path):
    path = yolo(tmp_path / "set")
    (path / "images" / "train" / "2.png").write_bytes(b"no picture")
    dataset = train(path)
    assert len(dataset) == 1
    assert reasons(dataset)[0].startswith("2.png: not a picture")


def test_a_list_with_missing_pictures_and_such_outside(tmp_path):
    picture(tmp_path / "images" / "secret.png")
    path = yolo(tmp_path / "set", config={"train": "list.txt"})
    outside = ["../images/secret.png", str(tmp_path / "images" / "secret.png"), "a\0b.png"]
    (path / "list.txt").write_text("\n".join(["images/train/1.png", "no.png", *outside]))
    dataset = train(path)
    assert len(dataset) == 1
    assert [reason.split(": no such")[0] for reason in reasons(dataset)] == [
        f"list.txt: line {number}" for number in (2, 3, 4, 5)
    ]


# --- refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("names: [a", "not YAML"),
        ("\0", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("!!python/object/apply:os.system ['echo hacked']", "names"),
        ("", "names"),
        ("- a", "names"),
        ("train: images/train", "names"),
        ("names: [nut]", "names no pictures"),
        ("names: [nut]\ntrain: {a: b}", "train has no valid form"),
        ("names: [nut]\ntrain: [[a]]", "train has no valid form"),
        ("names: 3\ntrain: images/train", "names has no valid form"),
        ("names: []\ntrain: images/train", "names has no valid form"),
        ("names: [a, [b]]\ntrain: images/train", "names has no valid form"),
        ("names: {a: b}\ntrain: images/train", "names has no valid form"),
        ("names: {-1: b}\ntrain: images/train", "names has no valid form"),
        ("names: [a, a]\ntrain: images/train", "'a' twice"),
        ("names: [a]\ntrain: nothing", "train: nothing is not below"),
        ("names: [a]\ntrain: /etc", "train: /etc is not below"),
        ("names: [a]\npath: /\ntrain: etc", "train: etc is not below"),
        ("names: [a]\ntrain: ../../other", "is not below"),
        ("names: [a]\ntrain: labels", "no picture in labels"),
    ],
)
def test_unusable_yaml(tmp_path, text, reason):
    (tmp_path / "other").mkdir()
    message = refused(yolo(tmp_path / "up" / "set", text=text))
    assert reason in message


def test_a_yaml_whose_aliases_multiply(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    lines += ["names: *a11", "train: *a11"]
    assert "no valid form" in refused(yolo(tmp_path / "set", text="\n".join(lines)))


def test_a_huge_yaml_is_refused_unread(tmp_path):
    path = yolo(tmp_path / "set")
    with (path / "data.yaml").open("r+b") as file:
        file.truncate(1 << 30)
    assert "larger than 1 MiB" in refused(path)


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
