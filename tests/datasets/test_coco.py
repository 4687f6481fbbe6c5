from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Kind
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, ImageError
from tests.conftest import TINY_LABELS, shapes_dataset

INFINITE = float("inf")
HUGE = 10**400


def png(width=40, height=50):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return stream.getvalue()


def image(**changes):
    return {"id": 1, "file_name": "a.png", "width": 40, "height": 50} | changes


def box(*bbox, **changes):
    values = {"id": 1, "image_id": 1, "category_id": 7, "bbox": list(bbox), "iscrowd": 0}
    if len(bbox) == 4 and all(isinstance(value, int | float) for value in bbox):
        values["area"] = bbox[2] * bbox[3]
    return values | changes


def coco(*, images=None, annotations=None, categories=None):
    return {
        "images": [image()] if images is None else images,
        "annotations": [box(1, 2, 3, 4)] if annotations is None else annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
        if categories is None
        else categories,
    }


def folder_of(root, values, names=("a.png",)):
    (root / "images").mkdir(parents=True)
    for name in names:
        (root / "images" / name).write_bytes(png())
    (root / "instances.json").write_text(json.dumps(values))
    return root


def zip_of(path, values, *, around="", names=("a.png",), form=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", form) as archive:
        text = values if isinstance(values, str | bytes) else json.dumps(values)
        archive.writestr(f"{around}instances.json", text)
        for name in names:
            archive.writestr(f"{around}images/{name}", png())
    return path


def read(tmp_path, **parts):
    return open_dataset(folder_of(tmp_path / "set", coco(**parts)))


def refused(path):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def assert_one_cat(dataset):
    assert dataset.problems == ()
    assert len(dataset) == 1
    sample = dataset.samples[0]
    assert (sample.file_name, sample.image_id) == ("a.png", 1)
    assert (sample.width, sample.height) == (40, 50)
    assert sample.boxes.tolist() == [[1, 2, 4, 6]] and sample.boxes.dtype == np.float32
    assert sample.labels.tolist() == [1] and sample.labels.dtype == np.int64
    assert sample.areas.tolist() == [12]
    assert dataset.read(sample).shape == (50, 40, 3)


# --- forms ----------------------------------------------------------------------------------


def test_folder(tmp_path):
    dataset = open_dataset(folder_of(tmp_path / "set", coco()))
    assert_one_cat(dataset)
    assert dataset.labels == LabelSet(("cat", "dog"), (7, 9))


def test_path_may_be_text_or_path(tmp_path):
    folder = folder_of(tmp_path / "set", coco())
    assert len(open_dataset(str(folder))) == len(open_dataset(folder)) == 1


def test_shapes_fixture_matches_its_json(shapes):
    dataset = open_dataset(shapes)
    values = json.loads((shapes / "instances.json").read_text())
    assert dataset.labels == TINY_LABELS and dataset.problems == ()
    assert len(dataset) == len(values["images"])
    for sample in dataset.samples:
        own = [a for a in values["annotations"] if a["image_id"] == sample.image_id]
        expected = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in own)]
        assert sample.boxes.tolist() == [list(map(float, corners)) for corners in expected]
        ids = [dataset.labels.category_id(int(label)) for label in sample.labels]
        assert ids == [a["category_id"] for a in own]


@pytest.mark.parametrize("form", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path, form):
    assert_one_cat(open_dataset(zip_of(tmp_path / "set.zip", coco(), form=form)))


def test_zip_with_a_folder_around_everything(tmp_path):
    assert_one_cat(open_dataset(zip_of(tmp_path / "set.zip", coco(), around="my-set/")))


def test_zip_whatever_its_ending(tmp_path):
    assert_one_cat(open_dataset(zip_of(tmp_path / "set.data", coco())))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("instances.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_train.json", "images"),
        ("labels.json", "."),
        ("val.json", "val"),
    ],
)
def test_json_finds_its_pictures(tmp_path, annotations, images):
    file, folder = tmp_path / annotations, tmp_path / images
    file.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(coco()))
    (folder / "a.png").write_bytes(png())
    assert_one_cat(open_dataset(file))


def test_json_prefers_the_folder_that_holds_the_picture(tmp_path):
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(coco()))
    (file.parent / "images").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "a.png").write_bytes(png())
    assert_one_cat(open_dataset(file))


def test_json_at_folder(tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(coco()))
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.png").write_bytes(png())
    assert_one_cat(open_dataset(f"{file}@{elsewhere}"))


def test_json_at_folder_below_a_path_that_holds_an_at_sign(tmp_path):
    home = tmp_path / "me@home"
    home.mkdir()
    file = home / "boxes.json"
    file.write_text(json.dumps(coco()))
    (home / "pictures").mkdir()
    (home / "pictures" / "a.png").write_bytes(png())
    assert_one_cat(open_dataset(f"{file}@{home / 'pictures'}"))


def test_folder_whose_name_looks_like_json_at_folder(tmp_path):
    assert_one_cat(open_dataset(folder_of(tmp_path / "x.json@y", coco())))


def test_json_at_missing_folder(tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(coco()))
    message = refused(f"{file}@{tmp_path / 'no'}")
    assert str(tmp_path / "no") in message and "no such folder" in message


# --- what is not a data set -----------------------------------------------------------------


def test_missing_path_says_what_is_read(tmp_path):
    message = refused(tmp_path / "no")
    assert "no such data set" in message and "zip" in message and "FILE.json@FOLDER" in message


def test_folder_without_annotations(tmp_path):
    assert "holds no data set that is known" in refused(tmp_path)


def test_file_of_another_kind(tmp_path):
    path = tmp_path / "set.txt"
    path.write_text("hello")
    assert "not a zip, a folder, a .json or a .yaml" in refused(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nonsense\n\nmore",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"images": 1' + b"0" * 5000,
    ],
)
def test_not_json(tmp_path, text):
    path = tmp_path / "set.json"
    path.write_bytes(text)
    message = refused(path)
    assert "set.json" in message and "not JSON" in message


@pytest.mark.parametrize(
    "values",
    [
        [],
        None,
        "text",
        {"images": []},
        {"images": {}, "annotations": [], "categories": []},
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        {"shapes": [], "imagePath": "a.png"},
    ],
)
def test_json_of_another_form(tmp_path, values):
    folder = folder_of(tmp_path / "set", values)
    message = refused(folder)
    assert "not a COCO annotation file" in message and "images, annotations, categories" in message


def test_no_pictures_at_all(tmp_path):
    message = refused(folder_of(tmp_path / "set", coco(images=[], annotations=[])))
    assert "no usable picture among 0; it lists none; check the path and the split" in message


def test_all_pictures_missing_names_the_first_problem(tmp_path):
    message = refused(folder_of(tmp_path / "set", coco(), names=()))
    assert "no usable picture" in message and "a.png: the picture is missing" in message


@pytest.mark.parametrize(
    "categories",
    [
        [],
        [{"id": 1}],
        [{"name": "cat"}],
        ["cat"],
        [{"id": "one", "name": "cat"}],
        [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}],
        [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
        [{"id": INFINITE, "name": "cat"}],
    ],
)
def test_unusable_categories(tmp_path, categories):
    folder = folder_of(tmp_path / "set", coco(categories=categories))
    assert str(folder) in refused(folder)


# --- broken archives ------------------------------------------------------------------------


def test_zip_without_annotations(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.png", png())
    assert "holds no data set that is known" in refused(path)


def test_zip_whose_json_is_broken(tmp_path):
    message = refused(zip_of(tmp_path / "set.zip", "{"))
    assert "set.zip" in message and "instances.json" in message and "not JSON" in message


def test_zip_cut_off_at_the_end(tmp_path):
    path = zip_of(tmp_path / "set.zip", coco())
    path.write_bytes(path.read_bytes()[:-40])
    assert "set.zip" in refused(path)


def test_zip_cut_off_at_the_start(tmp_path):
    path = zip_of(tmp_path / "set.zip", coco())
    path.write_bytes(path.read_bytes()[50:])
    assert "set.zip" in refused(path)


def test_zip_with_a_broken_directory(tmp_path):
    path = zip_of(tmp_path / "set.zip", coco())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02")] = 0
    path.write_bytes(content)
    message = refused(path)
    assert "set.zip" in message and "broken" in message


def test_zip_whose_annotations_do_not_decompress(tmp_path):
    path = zip_of(tmp_path / "set.zip", coco())
    content = bytearray(path.read_bytes())
    start = content.index(b"instances.json") + len("instances.json")
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    message = refused(path)
    assert "set.zip" in message and "broken" in message


def test_encrypted_zip(tmp_path):
    path = zip_of(tmp_path / "set.zip", coco())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "set.zip" in refused(path)


# --- problems that are left out and reported ------------------------------------------------


def reasons(dataset):
    assert all(len(str(problem).splitlines()) == 1 for problem in dataset.problems)
    return [(problem.where, problem.reason) for problem in dataset.problems]


def test_a_picture_that_is_a_lost_link_is_called_so(tmp_path):
    folder = folder_of(tmp_path / "set", coco(images=[image(), image(id=2, file_name="b.png")]))
    (tmp_path / "b.png").write_bytes(png())
    (folder / "images" / "b.png").symlink_to(tmp_path / "b.png")
    [problem] = open_dataset(folder).problems
    assert (problem.where, problem.reason) == (
        "b.png", "the picture is a link that leads out of the folder or to nothing",
    )  # fmt: skip


def test_missing_picture_is_reported_and_the_rest_goes_on(tmp_path):
    dataset = read(tmp_path, images=[image(id=5, file_name="no.png"), image()])
    assert reasons(dataset) == [("no.png", "the picture is missing")]
    assert [sample.file_name for sample in dataset.samples] == ["a.png"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (box(1, 2, 0, 4), "no area"),
        (box(1, 2, 3, 0), "no area"),
        (box(1, 2, -3, 4), "no area"),
        (box(float("nan"), 2, 3, 4), "not finite"),
        (box(1, 2, float("nan"), 4), "not finite"),
        (box(1, 2, INFINITE, 4), "not finite"),
        (box(40, 2, 3, 4), "outside the picture"),
        (box(1, 50, 3, 4), "outside the picture"),
        (box(-3, 2, 3, 4), "outside the picture"),
        (box(1, -9, 3, 4), "outside the picture"),
        (box(1, 2, 3), "no valid form"),
        (box(1, 2, 3, 4, 5), "no valid form"),
        (box("x", 2, 3, 4), "no valid form"),
        (box(None, 2, 3, 4), "no valid form"),
        (box(1, 2, 3, 4, bbox=7), "no valid form"),
        (box(1, 2, 3, 4, bbox="1234"), "no valid form"),
        (box(1, 2, 3, 4, bbox=[True, 2, 3, 4]), "no valid form"),
        (box(1, 2, 3, 4, category_id=7.9), "no valid form"),
        (box(1, 2, 3, 4, category_id=True), "no valid form"),
        (box(1, 2, 3, 4, category_id="7_0"), "no valid form"),
        (box(1, 2, 3, 4, category_id=99), "99"),
        (box(1, 2, 3, 4, category_id=None), "no valid form"),
        (box(HUGE, 2, 3, 4), ""),
        (box(1e308, 2, 3, 4), ""),
        (box(1, 2, 1e300, 1e300), ""),
        (box(-1e308, 2, 1e307, 4), ""),
        (box(1, 2, 3, 4, category_id=INFINITE), ""),
    ],
)
def test_unusable_box_is_reported_and_the_rest_goes_on(tmp_path, bad, reason):
    dataset = read(tmp_path, annotations=[bad, box(1, 2, 3, 4)])
    (problem,) = reasons(dataset)
    assert problem[0] == "a.png" and reason in problem[1]
    assert dataset.samples[0].boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("lacking", ["bbox", "category_id"])
def test_box_that_lacks_a_field(tmp_path, lacking):
    bad = box(1, 2, 3, 4)
    del bad[lacking]
    dataset = read(tmp_path, annotations=[bad, box(5, 6, 7, 8)])
    (problem,) = reasons(dataset)
    assert lacking in problem[1]
    assert len(dataset.samples[0].boxes) == 1


def test_box_that_vanishes_in_single_precision_is_left_out(tmp_path):
    # 39.99999999 to 40 has an area in double precision but none in float32.
    dataset = read(tmp_path, annotations=[box(39.99999999, 5, 5, 5), box(1, 2, 3, 4)])
    boxes = dataset.samples[0].boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_picture_whose_boxes_are_all_unusable_stays_without_boxes(tmp_path):
    dataset = read(tmp_path, annotations=[box(1, 2, 0, 0)])
    assert dataset.samples[0].boxes.shape == (0, 4)
    assert dataset.samples[0].labels.shape == dataset.samples[0].crowd.shape == (0,)


@pytest.mark.parametrize("again", [1, 1.0, "1"])
def test_boxes_whose_picture_cannot_be_told_are_left_out(tmp_path, again):
    images = [image(), image(file_name="b.png", id=again), image(id=2, file_name="c.png")]
    boxes = [box(1, 2, 3, 4, image_id=k, id=n) for n, k in enumerate((1, 1.0, "1", 2))]
    values = coco(images=images, annotations=boxes)
    folder = folder_of(tmp_path / "set", values, names=("a.png", "b.png", "c.png"))
    dataset = open_dataset(folder)
    assert [(s.file_name, len(s.boxes)) for s in dataset.samples] == [("c.png", 1)]
    kinds = [problem.kind for problem in dataset.problems]
    assert kinds == [Kind.IMAGE_ID_TWICE] * 2 + [Kind.ORPHAN] * 3


def test_a_picture_listed_twice_is_one(tmp_path):
    dataset = read(tmp_path, images=[image(), image()])
    assert [problem.kind for problem in dataset.problems] == [Kind.IMAGE_ID_TWICE]
    assert [len(sample.boxes) for sample in dataset.samples] == [1]


@pytest.mark.parametrize("number", [1.5, True, 2.0**53, "1_0", None, [1]])
def test_what_is_no_exact_id_is_nobodys(tmp_path, number):
    images = [image(), image(id=2), image(id=10), image(id=2**53), image(id=2**53 + 1)]
    dataset = read(tmp_path, images=images, annotations=[box(1, 2, 3, 4, image_id=number)])
    assert [problem.kind for problem in dataset.problems] == [Kind.BROKEN_ENTRY]
    assert sum(len(sample.boxes) for sample in dataset.samples) == 0


def test_neighbouring_large_ids_are_two_pictures(tmp_path):
    images = [image(id=2**53), image(id=2**53 + 1)]
    dataset = read(tmp_path, images=images, annotations=[box(1, 2, 3, 4, image_id=2**53 + 1)])
    assert [len(sample.boxes) for sample in dataset.samples] == [0, 1]


def test_categories_of_joined_files_that_are_the_same_are_one(tmp_path):
    categories = [{"id": 7, "name": "cat"}, {"id": "7", "name": "cat"}]
    assert read(tmp_path, categories=categories).labels.category_ids == (7,)


@pytest.mark.parametrize("number", [7, 7.0, "7"])
def test_a_category_id_of_two_classes_is_refused(tmp_path, number):
    categories = [{"id": 7, "name": "cat"}, {"id": number, "name": "dog"}]
    with pytest.raises(DatasetError, match="7"):
        read(tmp_path, categories=categories)


@pytest.mark.parametrize(
    "area", [-400, -0.5, 0, 0.0, float("nan"), INFINITE, -INFINITE, HUGE, 1e11, 2001, "big", "",
             "nan", "-12", True, [12], {}],
)  # fmt: skip
def test_an_area_that_cannot_be_one_becomes_the_boxs(tmp_path, area):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, area=area), box(5, 6, 7, 8, id=2)])
    assert dataset.samples[0].areas.tolist() == [12, 56]
    assert [(r.kind, r.box) for r in dataset.remarks] == [(Kind.VALUE, (1, 2, 4, 6))]
    assert dataset.problems == ()


@pytest.mark.parametrize("area", [1e-9, 0.5, 12, "12", 2000])
def test_an_area_that_can_be_one_stays(tmp_path, area):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, area=area)])
    assert dataset.samples[0].areas.tolist() == [float(area)]
    assert dataset.remarks == ()


@pytest.mark.parametrize("flag", ["iscrowd", "difficult"])
@pytest.mark.parametrize(
    ("value", "meant"),
    [(0, 0), (1, 1), ("0", 0), ("1", 1), (None, 0), (False, 0), (True, 1), (1.0, 1), ("true", 1),
     (2, None), (-1, None), (0.5, None), ("x", None), (INFINITE, None), ([], None)],
)  # fmt: skip
def test_a_flag_that_is_none_leaves_an_ordinary_object(tmp_path, flag, value, meant):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, **{flag: value})])
    (sample,) = dataset.samples
    assert sample.ignored.tolist() == [bool(meant)]
    assert [r.kind for r in dataset.remarks] == [Kind.VALUE] * (meant is None)
    assert dataset.problems == ()


def test_annotation_of_an_unlisted_image(tmp_path):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4), box(1, 1, 1, 1, image_id=77)])
    ((_, reason),) = reasons(dataset)
    assert "77" in reason and "not listed" in reason
    assert len(dataset.samples[0].boxes) == 1


@pytest.mark.parametrize("bad", [box(1, 2, 3, 4, image_id="x"), {"bbox": [1, 2, 3, 4]}, "text", 5])
def test_annotation_without_a_valid_image_id(tmp_path, bad):
    dataset = read(tmp_path, annotations=[bad, box(1, 2, 3, 4)])
    ((_, reason),) = reasons(dataset)
    assert "image_id" in reason
    assert len(dataset.samples[0].boxes) == 1


def test_annotation_with_an_infinite_image_id(tmp_path):
    # 1e999 in JSON reads as infinity.
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, image_id=INFINITE), box(1, 2, 3, 4)])
    assert len(dataset.problems) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 2, "file_name": "a.png", "width": 40},
        {"id": 2, "width": 40, "height": 50},
        image(id=None),
        image(id=2, width="wide"),
        image(id=2, width=0),
        image(id=2, height=-5),
        image(id=2, width=INFINITE),
        image(id=2, width=HUGE),
        image(id=2, height=2**31),
        None,
        "a.png",
    ],
)
def test_unusable_image_entry_is_reported_and_the_rest_goes_on(tmp_path, bad):
    dataset = read(tmp_path, images=[bad, image()])
    assert len(dataset.problems) == 1
    assert len(dataset) == 1 and dataset.samples[0].image_id == 1


def test_zip_reports_missing_pictures(tmp_path):
    values = coco(images=[image(), image(id=2, file_name="b.png")])
    dataset = open_dataset(zip_of(tmp_path / "set.zip", values))
    assert reasons(dataset) == [("b.png", "the picture is missing")]


# --- boxes ----------------------------------------------------------------------------------


def test_boxes_are_clipped_to_the_picture_and_keep_their_area(tmp_path):
    dataset = read(tmp_path, annotations=[box(-5, -6, 20, 20), box(30, 45, 100, 100)])
    assert dataset.samples[0].boxes.tolist() == [[0, 0, 15, 14], [30, 45, 40, 50]]
    assert dataset.samples[0].areas.tolist() == [400, 10_000]
    assert dataset.problems == ()


def test_area_defaults_to_that_of_the_box(tmp_path):
    plain = box(1, 2, 3, 4)
    del plain["area"]
    dataset = read(tmp_path, annotations=[plain, box(1, 2, 3, 4, area=5.5)])
    assert dataset.samples[0].areas.tolist() == [12, 5.5]


def test_crowd_and_difficult(tmp_path):
    plain = box(0, 0, 4, 4)
    del plain["iscrowd"]
    dataset = read(
        tmp_path,
        annotations=[plain, box(1, 1, 4, 4, iscrowd=1), box(2, 2, 4, 4, difficult=1)],
    )
    sample = dataset.samples[0]
    assert sample.crowd.tolist() == [False, True, False]
    assert sample.difficult.tolist() == [False, False, True]
    assert sample.ignored.tolist() == [False, True, True]


def test_labels_follow_the_order_of_the_categories(tmp_path):
    dataset = read(
        tmp_path,
        categories=[{"id": 90, "name": "z"}, {"id": 3, "name": "a"}],
        annotations=[box(1, 2, 3, 4, category_id=3), box(1, 2, 3, 4, category_id=90)],
    )
    assert dataset.labels.names == ("z", "a")
    assert dataset.samples[0].labels.tolist() == [2, 1]


def test_pictures_keep_the_order_of_the_file_and_need_no_boxes(tmp_path):
    folder = folder_of(
        tmp_path / "set",
        coco(images=[image(id=9, file_name="b.png"), image()]),
        names=("a.png", "b.png"),
    )
    dataset = open_dataset(folder)
    assert [sample.image_id for sample in dataset.samples] == [9, 1]
    assert [len(sample.boxes) for sample in dataset.samples] == [0, 1]
    assert dataset.problems == ()


# --- file names from annotation files are not to be trusted ---------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "../../../../../../../../../../etc/passwd",
        "/etc/passwd",
        "link.png",
        "up/x",
    ],
)
def test_names_that_lead_out_of_the_pictures_count_as_missing(tmp_path, name):
    folder = folder_of(tmp_path / "set", coco(images=[image(id=2, file_name=name), image()]))
    (folder / "secret.png").write_bytes(png())
    (folder / "x").write_bytes(png())
    (folder / "images" / "link.png").symlink_to(folder / "secret.png")
    (folder / "images" / "up").symlink_to(folder)
    dataset = open_dataset(folder)
    link = "a link that leads out of the folder or to nothing"
    reason = f"the picture is {link if name == 'link.png' else 'missing'}"
    assert reasons(dataset) == [(name, reason)]
    with pytest.raises(ImageError, match="leads out"):
        dataset.images.read_bytes(name)


def test_absolute_name_of_a_picture_is_refused(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    dataset = read(tmp_path, images=[image(id=2, file_name=str(secret)), image()])
    assert [sample.file_name for sample in dataset.samples] == ["a.png"]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.png", "\ud800.png", ""])
def test_impossible_names_count_as_missing(tmp_path, name):
    dataset = read(tmp_path, images=[image(id=2, file_name=name), image()])
    assert reasons(dataset) == [(name, "the picture is missing")]
    assert len(dataset) == 1


def test_zip_names_that_lead_out_count_as_missing(tmp_path):
    values = coco(images=[image(id=2, file_name="../../etc/passwd"), image()])
    dataset = open_dataset(zip_of(tmp_path / "set.zip", values))
    assert reasons(dataset) == [("../../etc/passwd", "the picture is missing")]


def test_picture_of_another_size_than_its_annotation(tmp_path):
    dataset = read(tmp_path, images=[image(width=50, height=40)])
    with pytest.raises(ImageError) as caught:
        dataset.read(dataset.samples[0])
    message = str(caught.value)
    assert "a.png" in message and "50 x 40" in message and "40 x 50" in message


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_file_names_may_begin_with_the_folder_of_pictures(tmp_path, form):
    folder = shapes_dataset(tmp_path / "set", pictures=2)
    values = json.loads((folder / "instances.json").read_text())
    for image in values["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    (folder / "instances.json").write_text(json.dumps(values))
    path = folder
    if form == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    dataset = open_dataset(path)
    assert len(dataset) == 2
    assert dataset.problems == ()
    assert dataset.read(dataset.samples[0]).shape[2] == 3


# --- what is wrong, in a word ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "kind", "place"),
    [
        (box(1, 2, float("nan"), 4), Kind.NOT_FINITE, None),
        (box(1, 2, 0, 4), Kind.NO_AREA, (1, 2, 1, 6)),
        (box(40, 2, 3, 4), Kind.OUTSIDE, (40, 2, 43, 6)),
        (box(1, 2, 3, 4, category_id=8), Kind.UNKNOWN_CLASS, (1, 2, 4, 6)),
        (box(1, 2, 3), Kind.BROKEN_ENTRY, None),
        (box(1, 2, 3, 4, image_id=2), Kind.ORPHAN, None),
        (box(1, 2, 3, 4, image_id=None), Kind.BROKEN_ENTRY, None),
    ],
)
def test_what_is_left_out_has_a_kind_and_its_box(tmp_path, annotation, kind, place):
    dataset = read(tmp_path, annotations=[annotation])
    (problem,) = dataset.problems
    assert (problem.kind, problem.box) == (kind, place)
    assert dataset.remarks == ()
    assert len(dataset.samples[0].boxes) == 0


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ([image(), image()], Kind.IMAGE_ID_TWICE),
        ([image(), image(id=2, file_name="b.png")], Kind.MISSING),
        ([image(), image(id=2, width=0)], Kind.BROKEN_ENTRY),
        ([image(), image(id=-2)], Kind.BROKEN_ENTRY),
        ([image(), {"id": 2}], Kind.BROKEN_ENTRY),
    ],
)
def test_a_picture_that_is_left_out_has_a_kind(tmp_path, images, kind):
    (problem,) = read(tmp_path, images=images).problems
    assert problem.kind == kind


def test_a_box_over_the_edge_is_kept_and_remarked(tmp_path):
    dataset = read(tmp_path, annotations=[box(-5, 2, 50, 4), box(-1, 2, 42, 4, id=2)])
    (remark,) = dataset.remarks
    assert (remark.kind, remark.box) == (Kind.OVER_EDGE, (-5, 2, 45, 6))
    assert "5.0 pixels over the edge" in remark.reason
    assert dataset.problems == ()
    assert dataset.samples[0].boxes.tolist() == [[0, 2, 40, 6]] * 2


@pytest.mark.parametrize(
    ("number", "other", "remarks"),
    [(1, 1, 1), (1, 1.0, 1), (1, "1", 1), ("a", "a", 1), (None, None, 0), ([1], [1], 0)],
)
def test_annotation_ids_used_twice_are_remarked(tmp_path, number, other, remarks):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, id=number), box(5, 2, 3, 4, id=other)])
    assert [r.kind for r in dataset.remarks] == [Kind.ANNOTATION_ID_TWICE] * remarks
    assert len(dataset.samples[0].boxes) == 2


def test_image_ids_that_int64_does_not_hold(tmp_path):
    dataset = read(tmp_path, images=[image(id=2**63), image(id=2**63 - 1)], annotations=[])
    assert reasons(dataset) == [("a.png", f"image id {2**63} is not in 0 to {2**63 - 1}")]
    assert dataset.samples[0].image_id == 2**63 - 1


@pytest.mark.parametrize("first", [image(id=5, file_name="no.png"), "broken"])
def test_one_missing_picture_does_not_hide_where_the_others_are(tmp_path, first):
    """The folder is found by the pictures, not by the first one alone."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "instances_val.json").write_text(json.dumps(coco(images=[first, image()])))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    for path in (tmp_path, folder / "instances_val.json"):
        assert [s.file_name for s in open_dataset(path).samples] == ["a.png"]


def test_a_folder_of_pictures_that_leads_out_is_not_followed(tmp_path):
    path = folder_of(tmp_path / "set", coco())
    (path / "images").rename(tmp_path / "elsewhere")
    (path / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"images leads out of the data set.*FILE\.json@FOLDER"):
        open_dataset(path)
    assert len(open_dataset(f"{path / 'instances.json'}@{tmp_path / 'elsewhere'}")) == 1
    (path / "images").unlink()
    (tmp_path / "elsewhere").rename(path / "pictures")
    (path / "images").symlink_to("pictures")
    assert len(open_dataset(path)) == 1


@pytest.mark.parametrize("name", ["./b/a.png", "b\\a.png", "b//a.png", "c/../b/a.png"])
def test_names_mean_the_same_in_a_folder_and_in_a_zip(tmp_path, name):
    values = coco(images=[image(file_name=name)])
    folder = folder_of(tmp_path / "set", values)
    (folder / "images" / "b").mkdir()
    (folder / "images" / "a.png").rename(folder / "images" / "b" / "a.png")
    archive = zip_of(tmp_path / "set.zip", values, names=("b/a.png",))
    for path in (folder, archive):
        dataset = open_dataset(path)
        assert dataset.images.read_bytes(name) == png()


def test_a_name_that_leads_out_of_a_zips_folder(tmp_path):
    values = coco(images=[image(file_name="../instances.json"), image(id=2)])
    dataset = open_dataset(zip_of(tmp_path / "set.zip", values))
    assert reasons(dataset) == [("../instances.json", "the picture is missing")]
