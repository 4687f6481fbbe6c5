from __future__ import annotations

import pytest

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Kind
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.datasets.voc import NAMES
from tests.support.datasets import voc_annotation as annotation
from tests.support.datasets import voc_folder as devkit
from tests.support.datasets import voc_object as element
from tests.support.pictures import save_picture as picture
from tests.support.reading import only, reasons, refused


def test_corners_count_from_one_and_belong_to_the_box(tmp_path):
    texts = [element(corners=(1, 1, 1, 1)), element(corners=(1, 1, 40, 50)),
             element(corners=("2.5", "3.25", "10.75", 20))]  # fmt: skip
    sample = only(open_dataset(devkit(tmp_path / "set", {"1": annotation(*texts)})))
    assert sample.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 40, 50], [1.5, 2.25, 10.75, 20]]
    assert sample.areas.tolist() == [1, 2000, 9.25 * 17.75]


@pytest.mark.parametrize("other", ["1.XML", "2.xml"])
def test_a_picture_that_two_files_annotate_is_left_out(tmp_path, other):
    for name in ("1.xml", other, "3.xml"):
        stem = "3" if name == "3.xml" else "1"
        (tmp_path / name).write_text(annotation(element(), file_name=f"{stem}.jpg"))
        picture(tmp_path / f"{stem}.jpg")
    dataset = open_dataset(tmp_path)
    assert only(dataset).file_name == "3.jpg"
    (problem,) = dataset.problems
    assert (problem.where, problem.kind) == ("1.jpg", Kind.PICTURE_TWICE)
    assert "1.xml" in problem.reason and other in problem.reason


def test_parts_of_an_object_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>"
    text = annotation(element("person", extra=part))
    dataset = open_dataset(devkit(tmp_path / "set", {"1": text}))
    assert only(dataset).boxes.tolist() == [[1, 2, 10, 20]]
    assert dataset.labels.names == NAMES


def test_splits_are_named_and_lists_of_one_class_are_none(tmp_path):
    texts = {"000012": annotation(), "000013": annotation(element()), "000014": annotation()}
    lists = {
        "train": ["000012"], "val": ["000014", "000013"], "trainval": list(texts),
        "cat_train": ["000012 -1"], "cat_trainval": ["000013  1"], "tv_stand_val": ["000013  1"],
    }  # fmt: skip
    path = devkit(tmp_path / "set", texts, splits=lists)
    assert find_dataset(path).splits == ("train", "trainval", "val")
    dataset = open_dataset(f"{path}@val")
    assert [sample.image_id for sample in dataset.samples] == [14, 13]
    # The lists of one class name the classes.
    assert dataset.labels.names == ("cat", "tv_stand")
    message = refused(path)
    assert "train, trainval, val" in message and f"{path}@train" in message
    assert "expected one of train, trainval, val" in refused(f"{path}@tset")


def test_what_is_no_one_set(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        devkit(tmp_path / "VOCdevkit" / year)
    message = refused(tmp_path / "VOCdevkit")
    assert "VOC2007" in message and "VOC2012" in message
    assert "1" in refused(devkit(tmp_path / "set", {"1": "x"}))
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "pom.xml").write_text("<project/>")
    assert "stray" in refused(tmp_path / "stray")


def test_classes_are_those_of_all_splits(tmp_path):
    texts = {"1": annotation(element("screw")), "2": annotation(element("nut"))}
    path = devkit(tmp_path / "set", texts, splits={"train": ["1"], "val": ["2"]})
    expected = LabelSet(("nut", "screw"), (1, 2))
    assert open_dataset(f"{path}@train").labels == open_dataset(f"{path}@val").labels == expected


def test_a_list_of_classes_counts_and_coco_names_get_their_ids(tmp_path):
    path = devkit(tmp_path / "set", {"1": annotation(element("tv"), element("dog"))})
    (path / "classes.txt").write_text("tv\ncat\n\n")
    dataset = open_dataset(path)
    assert dataset.labels == LabelSet(("tv", "cat"), (72, 17))
    assert only(dataset).labels.tolist() == [1]
    assert reasons(dataset) == ["1.jpg: Annotations/1.xml object 2: box of unknown class 'dog'"]
    (path / "classes.txt").write_text("tv\ntv\n")
    assert "'tv'" in refused(path)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ".bmp"])
def test_pictures_of_any_kind(tmp_path, suffix):
    assert only(open_dataset(devkit(tmp_path / "set", suffix=suffix))).file_name == f"1{suffix}"


@pytest.mark.parametrize("size", [None, (0, 0), ("", "x"), ("nan", "inf"), ("9e300", 50)])
def test_a_size_that_is_not_given_is_that_of_the_picture(tmp_path, size):
    text = annotation(element(), size=size)
    sample = only(open_dataset(devkit(tmp_path / "set", {"1": text})))
    assert (sample.width, sample.height) == (40, 50)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(Kind.BROKEN_ENTRY, element(corners=(2, 3, "", 20))),
     (Kind.BROKEN_ENTRY, element(corners=(2, 3, "x", 20))),
     (Kind.BROKEN_ENTRY, "<object><name>cat</name></object>"),
     (Kind.NOT_FINITE, element(corners=(2, 3, "nan", 20))),
     (Kind.NOT_FINITE, element(corners=(2, 3, "1e999", 20))),
     (Kind.NO_AREA, element(corners=(10, 3, 9, 20))),
     (Kind.NO_AREA, element(corners=(10, 30, 12, 20))),
     (Kind.OUTSIDE, element(corners=(60, 3, 70, 20))), (Kind.UNKNOWN_CLASS, element(name=""))],
)  # fmt: skip
def test_an_unusable_box_is_reported_and_the_rest_is_read(tmp_path, kind, bad):
    dataset = open_dataset(devkit(tmp_path / "set", {"1": annotation(bad, element())}))
    [reason] = reasons(dataset)
    assert reason.startswith("1.jpg: Annotations/1.xml object 1: ")
    assert [problem.kind for problem in dataset.problems] == [kind]
    assert only(dataset).boxes.tolist() == [[1, 2, 10, 20]]


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe\x00nonsense", annotation(element())[:-20].encode(),
     b"<annotation>&lol;</annotation>", b"<svg/>", b"<!DOCTYPE annotation><annotation/>",
     b'<?xml version="1.0" encoding="klingon"?><annotation/>', b"x" * 9_000_000],
    ids=range(8),
)  # fmt: skip
def test_an_unusable_file_is_reported_and_the_rest_is_read(tmp_path, text):
    texts = {"1": annotation(element()), "2": text}
    dataset = open_dataset(devkit(tmp_path / "set", texts))
    [problem] = reasons(dataset)
    assert problem.startswith("Annotations/2.xml: ")
    assert only(dataset).boxes.tolist() == [[1, 2, 10, 20]]


def test_entities_do_not_expand_and_nothing_is_fetched(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("cat")
    laughs = "".join(
        f'<!ENTITY l{k} "{"".join(f"&l{k - 1};" for _ in range(10))}">' for k in range(1, 12)
    )
    bombs = [
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><annotation>&l11;</annotation>',
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><annotation>&x;</annotation>',
        f'<!DOCTYPE a SYSTEM "{secret.as_uri()}"><annotation/>',
    ]
    texts = {str(k): bomb for k, bomb in enumerate(bombs)} | {"9": annotation(element())}
    # UTF-16 hides the words from a search in the bytes.
    texts["8"] = ('<?xml version="1.0" encoding="UTF-16"?>' + bombs[0]).encode("utf-16")
    dataset = open_dataset(devkit(tmp_path / "set", texts))
    assert len(dataset) == 1
    assert len(dataset.problems) == 4
    assert all("document type" in reason for reason in reasons(dataset))


def test_elements_in_elements_in_elements(tmp_path):
    deep = b"<annotation>" + b"<a>" * 50_000 + b"</a>" * 50_000 + b"</annotation>"
    dataset = open_dataset(devkit(tmp_path / "set", {"1": annotation(element()), "2": deep}))
    assert len(dataset) == 2


def test_listed_pictures_that_are_missing_twice_there_or_lead_out(tmp_path):
    (tmp_path / "secret.xml").write_text(annotation(element()))
    texts = {"1": annotation(element()), "2": annotation(file_name="../../../secret.png")}
    lists = {"train": ["1", "1", "2", "3", "../../secret", "/etc/passwd"]}
    path = devkit(tmp_path / "set", texts, splits=lists)
    (path / "JPEGImages" / "2.jpg").unlink()
    dataset = open_dataset(path)
    assert only(dataset).file_name == "1.jpg"
    twice, picture_, xml, *outside = reasons(dataset)
    assert twice == "ImageSets/Main/train.txt: 1 is listed 2 times"
    assert picture_.startswith("2.png: missing in ")
    assert "3.xml: missing" in xml
    assert len(outside) == 2 and all("leads out" in reason for reason in outside)


def test_size_of_the_picture_when_the_picture_is_broken(tmp_path):
    path = devkit(tmp_path / "set", {"1": annotation(element()), "2": annotation(size=None)})
    for name in ("2.jpg", "3.jpg"):  # of the last there is no XML
        (path / "JPEGImages" / name).write_bytes(b"no picture")
    problems = open_dataset(path).problems
    assert [(p.where, p.kind) for p in problems] == [
        (name, Kind.UNREADABLE) for name in ("2.jpg", "3.jpg")
    ]
