from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Kind
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, ImageError
from tests.support.datasets import coco
from tests.support.datasets import coco_box as box
from tests.support.datasets import coco_folder as folder_of
from tests.support.datasets import coco_image as image
from tests.support.datasets import coco_zip as zip_of
from tests.support.pictures import png, save_picture
from tests.support.reading import refused

INFINITE = float("inf")
HUGE = 10**400


def read(tmp_path, **parts):
    return open_dataset(folder_of(tmp_path / "set", coco(**parts)))


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


def test_folder(tmp_path):
    folder = folder_of(tmp_path / "x.json@y", coco())
    for path in (folder, str(folder)):
        dataset = open_dataset(path)
        assert_one_cat(dataset)
        assert dataset.labels == LabelSet(("cat", "dog"), (7, 9))


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.zip", {}), ("a.zip", {"form": zipfile.ZIP_STORED}), ("a.zip", {"around": "my-set/"}),
     ("a.data", {})],
)  # fmt: skip
def test_zip(tmp_path, name, options):
    """Whatever its ending, and with a folder around everything."""
    assert_one_cat(open_dataset(zip_of(tmp_path / name, coco(), **options)))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("instances.json", "images"), ("annotations/instances_val2017.json", "val2017"),
     ("annotations/instances_val2017.json", "images/val2017"),
     ("annotations/instances_train.json", "images"), ("labels.json", "."), ("val.json", "val")],
)  # fmt: skip
def test_json_finds_its_pictures(tmp_path, annotations, images):
    file, folder = tmp_path / annotations, tmp_path / images
    file.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (file.parent / "images").mkdir(exist_ok=True)  # not where the picture is
    file.write_text(json.dumps(coco()))
    (folder / "a.png").write_bytes(png())
    assert_one_cat(open_dataset(file))


@pytest.mark.parametrize("name", ["home", "me@home"])
def test_json_at_folder(tmp_path, name):
    home = tmp_path / name
    save_picture(home / "else" / "where" / "a.png")
    file = home / "boxes.json"
    file.write_text(json.dumps(coco()))
    assert_one_cat(open_dataset(f"{file}@{home / 'else' / 'where'}"))
    assert str(home / "no") in refused(f"{file}@{home / 'no'}")
    assert "no.json: no such file" in refused(f"{home / 'no.json'}@{home / 'else'}")


def test_what_is_no_data_set(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("images/a.png", png())
    for name in ("set.txt", "set.tar"):
        (tmp_path / name).write_text("hello")
    assert "unpack" in refused(tmp_path / "set.tar")
    for path in (tmp_path, tmp_path / "set.zip", tmp_path / "set.txt"):
        assert str(path) in refused(path)
    assert str(tmp_path / "no") in refused(tmp_path / "no")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(zip_of(tmp_path / "inner.zip", coco()), "inner.zip")
    assert "an archive in another" in refused(tmp_path / "outer.zip" / "inner.zip")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "page.zip").write_text("<html>not found</html>")
    for name, fact in (("outer", "unpack inner.zip"), ("empty", "empty"), ("page", "not a zip")):
        message = refused(tmp_path / f"{name}.zip")
        assert f"{name}.zip" in message and fact in message
    message = refused(zip_of(tmp_path / "broken.zip", "{"))
    assert "broken.zip" in message and "instances.json" in message


def test_without_any_usable_picture_the_first_problem_is_named(tmp_path):
    assert "0" in refused(folder_of(tmp_path / "none", coco(images=[], annotations=[])))
    assert "a.png" in refused(folder_of(tmp_path / "missing", coco(), names=()))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"nonsense\n\nmore", b"\xff\xfe\x00", b"[" * 100_000,
     b'{"images": 1' + b"0" * 5000],
)  # fmt: skip
def test_not_json(tmp_path, text):
    path = tmp_path / "set.json"
    path.write_bytes(text)
    assert "set.json" in refused(path)


@pytest.mark.parametrize(
    "values",
    [[], None, "text", {"images": []}, {"images": {}, "annotations": [], "categories": []},
     [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
     {"shapes": [], "imagePath": "a.png"}],
)  # fmt: skip
def test_json_of_another_form(tmp_path, values):
    message = refused(folder_of(tmp_path / "set", values))
    assert all(name in message for name in ("images", "annotations", "categories"))


@pytest.mark.parametrize(
    "categories",
    [[], [{"id": 1}], [{"name": "cat"}], [{"id": 1, "name": None}], ["cat"],
     [{"id": "one", "name": "cat"}],
     [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}],
     [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}], [{"id": INFINITE, "name": "cat"}],
     [{"id": -1, "name": "cat"}]],
)  # fmt: skip
def test_unusable_categories(tmp_path, categories):
    folder = folder_of(tmp_path / "set", coco(categories=categories))
    assert str(folder) in refused(folder)


def changed_at(content, mark, offset, data):
    start = content.index(mark) + offset
    return content[:start] + data + content[start + len(data) :]


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-40], lambda c: c[50:], lambda c: changed_at(c, b"PK\x01\x02", 0, b"\0"),
     lambda c: changed_at(c, b"instances.json", 14, b"\xff" * 8),
     lambda c: changed_at(changed_at(c, b"PK\x03\x04", 6, b"\1"), b"PK\x01\x02", 8, b"\1")],
    ids=["end", "start", "directory", "content", "encrypted"],
)  # fmt: skip
def test_a_damaged_or_encrypted_zip_is_named(tmp_path, damage):
    path = zip_of(tmp_path / "set.zip", coco())
    path.write_bytes(damage(path.read_bytes()))
    assert "set.zip" in refused(path)


@pytest.mark.parametrize(
    ("bad", "kind", "place"),
    [(box(1, 2, 0, 4), Kind.NO_AREA, (1, 2, 1, 6)), (box(1, 2, 3, 0), Kind.NO_AREA, (1, 2, 4, 2)),
     (box(1, 2, -3, 4), Kind.NO_AREA, (1, 2, -2, 6)),
     *((b, Kind.NOT_FINITE, None) for b in (
         box(float("nan"), 2, 3, 4), box(1, 2, float("nan"), 4), box(1, 2, INFINITE, 4))),
     (box(40, 2, 3, 4), Kind.OUTSIDE, (40, 2, 43, 6)),
     (box(1, 50, 3, 4), Kind.OUTSIDE, (1, 50, 4, 54)),
     (box(-3, 2, 3, 4), Kind.OUTSIDE, (-3, 2, 0, 6)),
     (box(1, -9, 3, 4), Kind.OUTSIDE, (1, -9, 4, -5)),
     (box(39.99999999, 5, 5, 5), Kind.OUTSIDE, (39.99999999, 5, 39.99999999 + 5, 10)),  # in float32
     (box(1, 2, 3, 4, category_id=99), Kind.UNKNOWN_CLASS, (1, 2, 4, 6)),
     *((b, Kind.BROKEN_ENTRY, None) for b in (
         box(1, 2, 3), box(1, 2, 3, 4, 5), box("x", 2, 3, 4), box(None, 2, 3, 4),
         *(box(1, 2, 3, 4, bbox=v) for v in (7, "1234", [True, 2, 3, 4])),
         *(box(1, 2, 3, 4, category_id=v) for v in (7.9, True, "7_0", None, INFINITE)),
         *(box(1, 2, 3, 4, image_id=v) for v in ("x", None, INFINITE)),
         {"image_id": 1, "category_id": 7}, {"image_id": 1, "bbox": [1, 2, 3, 4]},
         {"bbox": [1, 2, 3, 4]}, "text", 5)),
     (box(1, 2, 3, 4, image_id=77), Kind.ORPHAN, None), (box(HUGE, 2, 3, 4), None, None),
     *((b, None, None) for b in (
         box(1e308, 2, 3, 4), box(1, 2, 1e300, 1e300), box(-1e308, 2, 1e307, 4)))],
)  # fmt: skip
def test_an_unusable_box_is_reported_and_the_rest_is_read(tmp_path, bad, kind, place):
    dataset = read(tmp_path, annotations=[bad, box(1, 2, 3, 4, id=2)])
    (problem,) = dataset.problems
    assert kind is None or (problem.kind, problem.box) == (kind, place)
    assert len(str(problem).splitlines()) == 1 and dataset.remarks == ()
    assert dataset.samples[0].boxes.tolist() == [[1, 2, 4, 6]]


def test_a_picture_whose_boxes_are_all_unusable_stays(tmp_path):
    (sample,) = read(tmp_path, annotations=[box(1, 2, 0, 0)]).samples
    assert sample.boxes.shape == (0, 4) and sample.labels.shape == sample.crowd.shape == (0,)


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


@pytest.mark.parametrize("number", [1.5, True, 2.0**53, "1_0", None, [1]])
def test_what_is_no_exact_id_is_nobodys(tmp_path, number):
    images = [image(), image(id=2), image(id=10), image(id=2**53), image(id=2**53 + 1)]
    dataset = read(tmp_path, images=images, annotations=[box(1, 2, 3, 4, image_id=number)])
    assert [problem.kind for problem in dataset.problems] == [Kind.BROKEN_ENTRY]
    assert sum(len(sample.boxes) for sample in dataset.samples) == 0


@pytest.mark.parametrize("number", [2**53, 2**63 - 2])
def test_neighbouring_large_ids_are_two_pictures(tmp_path, number):
    images = [image(id=number), image(id=number + 1)]
    dataset = read(tmp_path, images=images, annotations=[box(1, 2, 3, 4, image_id=number + 1)])
    assert [(s.image_id, len(s.boxes)) for s in dataset.samples] == [(number, 0), (number + 1, 1)]


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


@pytest.mark.parametrize("area", [1e-9, 0.5, 12, "12", 2000, None])
def test_an_area_that_can_be_one_stays_and_is_the_boxs_where_there_is_none(tmp_path, area):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, area=area)])
    assert dataset.samples[0].areas.tolist() == [12 if area is None else float(area)]
    assert dataset.remarks == ()


@pytest.mark.parametrize("flag", ["iscrowd", "difficult"])
@pytest.mark.parametrize(
    ("value", "meant"),
    [(0, 0), (1, 1), ("0", 0), ("1", 1), (None, 0), (False, 0), (True, 1), (1.0, 1), ("true", 1),
     (" 1 ", 1), ("Unspecified", 0), ("", 0),
     (2, None), (-1, None), (0.5, None), ("x", None), (INFINITE, None), ([], None)],
)  # fmt: skip
def test_a_flag_that_is_none_leaves_an_ordinary_object(tmp_path, flag, value, meant):
    boxes = [box(1, 2, 3, 4, **{flag: value}), box(1, 2, 3, 4, id=2)]
    dataset = read(tmp_path, annotations=boxes)
    (sample,) = dataset.samples
    assert sample.ignored.tolist() == [bool(meant), False]
    assert [r.kind for r in dataset.remarks] == [Kind.VALUE] * (meant is None)
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("other", "kind"),
    [(image(), Kind.IMAGE_ID_TWICE),
     *((image(id=2, file_name=name), Kind.MISSING)
       for name in ("b.png", "x" * 5000, "a\0b.png", "\ud800.png")),
     *((bad, Kind.BROKEN_ENTRY) for bad in (
         *(image(id=2, width=v) for v in ("wide", 0, INFINITE, HUGE)),
         *(image(id=2, height=v) for v in (-5, 2**31)),
         image(id=None), image(id=-2), image(id=2**63), {"id": 2},
         {"id": 2, "width": 40, "height": 50}, {"id": 2, "file_name": "a.png", "width": 40},
         None, "a.png"))],
)  # fmt: skip
def test_an_unusable_image_entry_is_reported_and_the_rest_is_read(tmp_path, other, kind):
    dataset = read(tmp_path, images=[other, image()])
    assert [problem.kind for problem in dataset.problems] == [kind]
    assert [(s.image_id, len(s.boxes)) for s in dataset.samples] == [(1, 1)]


def test_a_broken_picture_whose_size_is_not_given_is_left_out(tmp_path):
    values = coco(images=[image(id=2, file_name="b.png", width=None, height=None), image()])
    folder = folder_of(tmp_path / "set", values, names=("a.png", "b.png"))
    (folder / "images" / "b.png").write_bytes(b"no picture")
    dataset = open_dataset(folder)
    assert [(p.where, p.kind) for p in dataset.problems] == [("b.png", Kind.UNREADABLE)]
    assert [sample.file_name for sample in dataset.samples] == ["a.png"]


def test_boxes_over_the_edge_are_clipped_and_remarked_and_keep_their_area(tmp_path):
    boxes = [box(-5, 2, 50, 4), box(-1, 2, 42, 4, id=2), box(30, 45, 100, 100, id=3)]
    dataset = read(tmp_path, annotations=boxes)
    remarks = [(remark.kind, remark.box) for remark in dataset.remarks]
    over = [(-5, 2, 45, 6), (30, 45, 130, 145)]
    assert remarks == [(Kind.OVER_EDGE, place) for place in over]
    assert "5.0" in dataset.remarks[0].reason
    assert dataset.problems == ()
    assert dataset.samples[0].boxes.tolist() == [[0, 2, 40, 6]] * 2 + [[30, 45, 40, 50]]
    assert dataset.samples[0].areas.tolist() == [200, 168, 10_000]


def test_pictures_keep_the_order_of_the_file_and_need_no_boxes(tmp_path):
    values = coco(images=[image(id=9, file_name="b.png"), image()])
    dataset = open_dataset(folder_of(tmp_path / "set", values, names=("a.png", "b.png")))
    assert [(s.image_id, len(s.boxes)) for s in dataset.samples] == [(9, 0), (1, 1)]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    "name",
    ["../../secret.png", "../../../../../../../../../../etc/passwd", "/etc/passwd", "link.png",
     "up/x", "", "../instances.json"],
)  # fmt: skip
def test_names_that_lead_out_of_the_pictures_count_as_missing(tmp_path, name):
    values = coco(images=[image(id=2, file_name=name), image()])
    folder = folder_of(tmp_path / "set", values)
    for secret in ("secret.png", "set/x"):
        save_picture(tmp_path / "a.png").rename(tmp_path / secret)
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "images" / "up").symlink_to(folder)
    for path in (folder, zip_of(tmp_path / "set.zip", values)):
        dataset = open_dataset(path)
        (problem,) = dataset.problems
        assert (problem.where, problem.kind) == (name, Kind.MISSING)
        assert ("link" in problem.reason) == (name == "link.png" and path == folder)
        assert len(dataset) == 1
        with pytest.raises(ImageError):
            dataset.images.read_bytes(name)


@pytest.mark.parametrize(
    ("number", "other", "remarks"),
    [(1, 1, 1), (1, 1.0, 1), (1, "1", 1), ("a", "a", 1), (None, None, 0), ([1], [1], 0)],
)
def test_annotation_ids_used_twice_are_remarked(tmp_path, number, other, remarks):
    dataset = read(tmp_path, annotations=[box(1, 2, 3, 4, id=number), box(5, 2, 3, 4, id=other)])
    assert [r.kind for r in dataset.remarks] == [Kind.ANNOTATION_ID_TWICE] * remarks
    assert len(dataset.samples[0].boxes) == 2


@pytest.mark.parametrize("first", [image(id=5, file_name="no.png"), "broken"])
def test_one_missing_picture_does_not_hide_where_the_others_are(tmp_path, first):
    """The folder is found by the pictures, not by the first one alone."""
    save_picture(tmp_path / "images" / "a.png")
    file = tmp_path / "annotations" / "instances_val.json"
    file.parent.mkdir()
    file.write_text(json.dumps(coco(images=[first, image()])))
    for path in (tmp_path, file):
        assert [s.file_name for s in open_dataset(path).samples] == ["a.png"]


def test_a_folder_of_pictures_that_leads_out_is_not_followed(tmp_path):
    path = folder_of(tmp_path / "set", coco())
    (path / "images").rename(tmp_path / "elsewhere")
    (path / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"images.*FILE\.json@FOLDER"):
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
