from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.datasets.convert.convert import Options, Places, convert
from ssd34.datasets.convert.writers import Dropped
from ssd34.datasets.dataset import Dataset, ImageStore
from ssd34.datasets.open import find_dataset, open_dataset
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import FolderFiles
from tests.support.datasets import sample
from tests.support.pictures import png

DEFAULT = "annotations/instances_default.json"
"""Of a COCO data set that is not divided."""

TOLERANCE = 1e-8
"""Pixels, beside the last bit of a float32, by which boxes may differ after a round trip."""


class Drawn(ImageStore):
    """Pictures of one colour, each as large as its sample says; called the same anywhere."""

    def __init__(self, samples):
        self.sizes = {sample.file_name: (sample.width, sample.height) for sample in samples}

    def read_bytes(self, file_name):
        if file_name.endswith(".ppm"):  # without the pixels: large pictures take a moment
            return b"P6 %d %d 255\n" % self.sizes[file_name]
        return png(*self.sizes[file_name])


def dataset(*samples, names=("nut", "bolt")):
    return Dataset("drawn", LabelSet.from_names(names), samples, Drawn(samples))


def one(data, folder, form, **options):
    return convert([("", data)], folder, Options(form, **options))


def assert_same(a, b, *, ignored=True):
    """The same pictures, classes and boxes; flags only where the format holds them."""
    assert a.labels.names == b.labels.names
    by_name = {sample.file_name: sample for sample in b.samples}
    assert len(by_name) == len(a) == len(b)
    for sample_ in a.samples:
        other = by_name[sample_.file_name]
        assert (sample_.width, sample_.height) == (other.width, other.height)
        np.testing.assert_array_equal(sample_.labels, other.labels)
        np.testing.assert_allclose(sample_.boxes, other.boxes, rtol=0, atol=TOLERANCE)
        if ignored:
            np.testing.assert_array_equal(sample_.ignored, other.ignored)


@st.composite
def samples(draw, number):
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))

    def ends(size):
        # Any float32 within the picture, often whole, often at the edge.
        side = st.one_of(
            st.sampled_from([0.0, float(size)]),
            st.integers(0, size).map(float),
            st.floats(0, size, width=32),
        )
        first, second = sorted((draw(side), draw(side)))
        return (first, second) if second - first >= 1e-4 else (0.0, float(size))

    corners = [(ends(width), ends(height)) for _ in range(draw(st.integers(0, 4)))]
    count = len(corners)
    flags = st.lists(st.booleans(), min_size=count, max_size=count).map(lambda v: np.array(v, bool))
    labels = st.lists(st.integers(1, 3), min_size=count, max_size=count)
    return sample(
        f"{number}.ppm",
        [(left, top, right, bottom) for (left, right), (top, bottom) in corners],
        width=width, height=height, image_id=number, labels=np.array(draw(labels), np.int64),
        crowd=draw(flags), difficult=draw(flags),
    )  # fmt: skip


pictures = st.integers(1, 3).flatmap(lambda n: st.tuples(*(samples(k) for k in range(1, n + 1))))


@pytest.mark.parametrize("ways", [("coco", "voc", "yolo"), ("yolo", "voc", "coco")])
@settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(drawn=pictures)
def test_boxes_are_equal_after_a_round_trip(ways, drawn):
    labels = LabelSet(("nut", "x & <y>", "Schraube ä"), (90, 3, 7))
    first = before = Dataset("drawn", labels, drawn, Drawn(drawn))
    with tempfile.TemporaryDirectory() as folder:
        for number, form in enumerate(ways):
            path = Path(folder) / str(number)
            done = one(before, path, form, ignored_as_objects=True)
            after = open_dataset(path)
            assert find_dataset(path).format == form and after.problems == ()
            assert_same(before, after, ignored=form != "yolo")
            assert [s.image_id for s in after.samples] == [s.image_id for s in drawn]
            if before is first and form == "coco":
                assert done.losses == {} and after.labels == labels
                for a, b in zip(first.samples, after.samples, strict=True):
                    for field in ("boxes", "areas", "crowd", "difficult"):
                        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
            before = after
        assert_same(first, before, ignored=False)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_pictures_are_the_same_bytes(shapes, tmp_path, form, link):
    before = open_dataset(shapes)
    one(before, tmp_path / "new", form, link=link)
    after = open_dataset(tmp_path / "new")
    assert_same(before, after)
    after.read(after.samples[0])
    assert isinstance(after.images, FolderFiles)
    for name in (one_.file_name for one_ in before.samples):
        assert after.images.read_bytes(name) == before.images.read_bytes(name)
        same = os.path.samefile(after.images.path(name), shapes / "images" / name)
        assert same == link


@pytest.fixture(scope="module")
def supervision():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import supervision

        return supervision


FRACTIONS = [(0, 0, 40, 50), (1.25, 2.5, 3.75, 20), (30, 40, 31, 41), (7.1, 8.2, 9.3, 10.4)]


def fractional(folder, form):
    data = dataset(sample("1.png", FRACTIONS, labels=[1, 2, 1, 2]), sample("2.png", image_id=2))
    one(data, folder, form)
    return folder


def theirs(data):
    """Picture name to boxes and class names, as the library has them."""
    return {
        Path(path).name: [
            (box.tolist(), data.classes[number])
            for box, number in zip(found.xyxy, found.class_id, strict=True)
        ]
        for path, found in data.annotations.items()
    }


@pytest.mark.parametrize(
    ("form", "reader", "places"),
    [("yolo", "from_yolo", ("images/train", "labels/train", "data.yaml")),
     ("voc", "from_pascal_voc", ("JPEGImages", "Annotations")),
     ("coco", "from_coco", ("images/default", DEFAULT))],
)  # fmt: skip
def test_another_reader_finds_the_same(supervision, tmp_path, form, reader, places):
    new = fractional(tmp_path / "new", form)
    data = getattr(supervision.DetectionDataset, reader)(*(str(new / place) for place in places))
    boxes = theirs(data)
    assert boxes["2.png"] == []
    assert [name for _, name in boxes["1.png"]] == ["nut", "bolt", "nut", "bolt"]
    np.testing.assert_allclose([box for box, _ in boxes["1.png"]], FRACTIONS, atol=1e-5)


def test_files_lie_where_other_tools_look(tmp_path):
    """As datumaro and CVAT import them."""
    parts = [(name, dataset(sample("1.png", [[1, 2, 3, 4]]))) for name in ("train", "val")]
    convert(parts, tmp_path / "coco", Options("coco"))
    for name in ("train", "val"):
        assert (tmp_path / "coco" / "images" / name / "1.png").is_file()
        assert (tmp_path / "coco" / "annotations" / f"instances_{name}.json").is_file()
    convert(parts, tmp_path / "voc", Options("voc"))
    rows = (tmp_path / "voc" / "labelmap.txt").read_text().splitlines()
    assert rows[1:] == ["background:::", "nut:::", "bolt:::"] and rows[0].startswith("#")


@pytest.mark.parametrize("form", ["yolo", "voc", "coco"])
def test_what_another_writer_wrote_reads_the_same(supervision, tmp_path, form):
    source = fractional(tmp_path / "source", "coco")
    data = supervision.DetectionDataset.from_coco(
        str(source / "images" / "default"), str(source / DEFAULT)
    )
    new = tmp_path / "new"
    if form == "yolo":
        data.as_yolo(f"{new}/images/train", f"{new}/labels/train", f"{new}/data.yaml")
        config = (new / "data.yaml").read_text()
        (new / "data.yaml").write_text(f"{config}\ntrain: images/train\n")
    elif form == "voc":
        data.as_pascal_voc(f"{new}/JPEGImages", f"{new}/Annotations")
    else:
        data.as_coco(f"{new}/images", f"{new}/instances.json")
    read = open_dataset(new)
    [first] = [s for s in read.samples if s.file_name == "1.png"]
    # That library rounds corners of VOC to whole pixels.
    start = np.array([1, 1, 0, 0])
    expected = np.round(FRACTIONS + start) - start if form == "voc" else FRACTIONS
    np.testing.assert_allclose(first.boxes, expected, atol=2e-3)
    assert [read.labels.name(int(label)) for label in first.labels] == ["nut", "bolt"] * 2


FLAGGED = sample(
    "1.png", [(0, 0, 2, 2), (1, 1, 4, 4), (5, 5, 9, 9)], crowd=[True, False, False],
    difficult=[False, True, False], areas=[4, 9, 8],
)  # fmt: skip


@pytest.mark.parametrize(
    ("form", "options", "lost", "boxes", "difficult"),
    [("voc", {}, {Dropped.CROWD_DIFFICULT: 1}, 3, [True, True, False]),
     ("yolo", {}, {Dropped.IGNORED_LEFT_OUT: 2}, 1, [False]),
     ("yolo", {"ignored_as_objects": True}, {Dropped.IGNORED_OBJECTS: 2}, 3, [False] * 3)],
)  # fmt: skip
def test_what_becomes_of_crowd_and_difficult(tmp_path, form, options, lost, boxes, difficult):
    done = one(dataset(FLAGGED), tmp_path / "new", form, **options)
    [after] = open_dataset(tmp_path / "new").samples
    assert after.boxes.tolist() == FLAGGED.boxes[-boxes:].tolist()
    assert after.difficult.tolist() == difficult and not after.crowd.any()
    assert done.losses == lost | {Dropped.AREAS: 1}
    assert [(count, n) for _, count, n in done.splits] == [(1, boxes)]


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_numbers_that_change_are_counted(tmp_path, form):
    """Not those of what is left out."""
    labels = LabelSet(("nut", "bolt"), (5, 2))
    samples_ = (sample("b.png", image_id=9), sample("a.png", [(0, 0, 2, 2)], image_id=1))
    done = one(Dataset("d", labels, samples_, Drawn(samples_)), tmp_path / "new", form)
    assert done.losses[Dropped.CATEGORY_IDS] == 1  # 5 becomes 1
    after = open_dataset(tmp_path / "new")
    changed = {s.file_name: s.image_id for s in after.samples} != {"a.png": 1, "b.png": 9}
    assert (done.losses[Dropped.IMAGE_IDS] > 0) == changed
    broken = sample("2", [(0, 0, 2.5, 2)], image_id=2, crowd=[True])
    done = one(dataset(FLAGGED, broken), tmp_path / "other", "voc")
    assert done.losses == {Dropped.CROWD_DIFFICULT: 1, Dropped.AREAS: 1}


def test_coco_classes_keep_their_ids_everywhere(tmp_path):
    first = sample("000000000009.png", [(0, 0, 2, 2)], image_id=9, labels=[80])
    data = Dataset("d", COCO_LABELS, (first,), Drawn([first]))
    for form in ("voc", "yolo"):
        assert one(data, tmp_path / form, form).losses == {}
        after = open_dataset(tmp_path / form)
        assert after.labels == COCO_LABELS and after.samples[0].image_id == 9


def test_fractions_in_voc_are_pointed_out(tmp_path):
    done = one(dataset(sample("1.png", FRACTIONS)), tmp_path / "new", "voc")
    assert done.losses == {Dropped.FRACTIONS: 2}
    text = (tmp_path / "new/Annotations/1.xml").read_text()
    assert "<xmin>8.1</xmin>" in text and "<ymax>10.4</ymax>" in text
    assert "<xmin>31</xmin>" in text and "<xmax>31</xmax>" in text


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
@pytest.mark.parametrize(
    "names",
    [("a/1.png", "b/1.png", "a_1.png"), ("1.png", "1.jpg", "1-2.png"), ("A.png", "a.png"),
     ("my picture 1.png", "my picture 2.png"), (".hidden.png", "..dots.png", " blank.png"),
     ("../../up.png", "/etc/root.png", "C:\\windows\\1.png"),
     ("line\nbreak.png", "tab\t.png", "bell\a.png", "nel\u0085.png", "ls\u2028.png"),
     ("images/1.png", "images/images/1.png", "labels/1.png"),
     ("ünï©ode ☃.png", "per%20cent&<>'\".png", "1;2 #3.png"),
     ("train.png", "data.yaml.png", "classes.txt.png", "instances.json.png")],
)  # fmt: skip
def test_awkward_file_names(tmp_path, names, form):
    samples_ = [
        sample(name, [(0, 0, k, k)], image_id=k, width=40 + k)
        for k, name in enumerate(names, start=1)
    ]
    new = tmp_path / "deep" / "new"
    new.parent.mkdir()
    done = one(dataset(*samples_), new, form)
    after = open_dataset(new)
    assert after.problems == () and done.problems == ()
    sizes = {s.width: s for s in after.samples}
    assert sorted(sizes) == [40 + k for k in range(1, len(names) + 1)]
    for k in range(1, len(names) + 1):
        assert sizes[40 + k].boxes.tolist() == [[0, 0, k, k]]
        assert after.read(sizes[40 + k]).shape == (50, 40 + k, 3)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and new not in p.parents]
    assert outside == []


@pytest.mark.parametrize("form", ["voc", "yolo"])
@pytest.mark.parametrize("name", ["a\nb", " a", "", "a\0", "\u2028"])
def test_class_names_that_a_line_cannot_hold_are_refused(tmp_path, form, name):
    with pytest.raises(DatasetError, match="--rename"):
        one(dataset(sample(), names=("nut", name)), tmp_path / "new", form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no", "1", "null", "~", "a: b", "- a", "#", "'", '"', "{x}", "é"])
def test_class_names_that_yaml_or_xml_take_for_something_else(tmp_path, name):
    before = dataset(sample("1.png", [(0, 0, 9, 9)], labels=[2]), names=("nut", name))
    for form in ("yolo", "voc", "coco"):
        one(before, tmp_path / form, form)
        assert_same(before, open_dataset(tmp_path / form))


def halves():
    samples_ = sample("1.png", [(0, 0, 9, 9)]), sample("1.png", [(1, 1, 3, 4)], width=44)
    return [dataset(each) for each in samples_]


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_splits_with_equal_file_names(tmp_path, form):
    splits = list(zip(("train", "val"), halves(), strict=True))
    done = convert(splits, tmp_path / "new", Options(form))
    assert [name for name, _, _ in done.splits] == ["train", "val"]
    assert find_dataset(tmp_path / "new").splits == ("train", "val")
    for name, before in splits:
        after = open_dataset(f"{tmp_path / 'new'}@{name}")
        assert after.samples[0].boxes.tolist() == before.samples[0].boxes.tolist()
        assert after.read(after.samples[0]).shape[1] == before.samples[0].width


def test_splits_of_voc_share_pictures(tmp_path):
    data = dataset(sample("1.png", [(0, 0, 9, 9)]), sample("2.png", image_id=2))
    one(data, tmp_path / "a", "voc")
    lists = tmp_path / "a" / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("1\n2\n")
    (lists / "train.txt").write_text("1\n")
    layout = find_dataset(tmp_path / "a")
    opened = [(name, layout.open(name)) for name in layout.splits]
    convert(opened, tmp_path / "b", Options("voc"))
    assert sorted(os.listdir(tmp_path / "b" / "JPEGImages")) == ["1.png", "2.png"]
    assert len(open_dataset(f"{tmp_path / 'b'}@trainval")) == 2
    with pytest.raises(OptionError, match="'train'"):
        convert(opened, tmp_path / "c", Options("yolo"))


def test_split_names_that_yolo_has_not(tmp_path):
    first, second = halves()
    convert([("train2017", first), ("valid", second)], tmp_path / "a", Options("yolo"))
    assert find_dataset(tmp_path / "a").splits == ("train", "val")
    for form, split in (("yolo", "dev"), ("voc", "../up")):
        with pytest.raises(OptionError) as caught:
            convert([(split, first)], tmp_path / "b", Options(form))
        assert repr(split) in str(caught.value) and not (tmp_path / "b").exists()


def test_classes_of_splits_are_matched_by_name(tmp_path):
    first, second = halves()
    second = dataclasses.replace(second, labels=LabelSet.from_names(["bolt", "nut"]))
    convert([("train", first), ("val", second)], tmp_path / "new", Options("yolo"))
    after = open_dataset(f"{tmp_path / 'new'}@val")
    assert after.labels.name(int(after.samples[0].labels[0])) == "bolt"
    other = dataclasses.replace(second, labels=LabelSet.from_names(["bolt", "gear"]))
    with pytest.raises(DatasetError, match="gear, nut"):
        convert([("train", first), ("val", other)], tmp_path / "no", Options("voc"))
    convert([("train", first), ("val", other)], tmp_path / "coco", Options("coco"))
    assert open_dataset(f"{tmp_path / 'coco'}@val").labels.names == ("bolt", "gear")


def test_what_is_there_is_not_overwritten(tmp_path, monkeypatch):
    for name in ("full", "empty", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")  # which would be another folder afterwards
    for name in ("full/a", "file"):
        (tmp_path / name).write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link", "no/new", "here"):
        with pytest.raises(OptionError, match=name.split("/")[0]):
            one(dataset(sample()), tmp_path / name, "coco")
    with pytest.raises(OptionError, match="current folder"):
        one(dataset(sample()), Path(), "coco")
    one(dataset(sample()), tmp_path / "empty", "coco")
    assert len(open_dataset(tmp_path / "empty")) == 1


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_very_many_pictures_of_one_name_do_not_look_at_each_other(form):
    """With the square of their number it would not end."""
    places, data = Places(form), dataset(sample())
    names = ("".join(letters) + ".png" for letters in product('<>:"|?*_', repeat=5))
    paths = [places.of(data, "train", sample(name))[0] for name in names]
    assert len(set(paths)) == len(paths) == 8**5
    assert paths[1].endswith("/_____-2.png") and paths[-1].endswith(f"/_____-{8**5}.png")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left"), SystemExit])
def test_nothing_is_left_of_an_interrupted_conversion(tmp_path, error):
    def interrupt(done):
        if done == 2:
            raise error

    data = dataset(*(sample(f"{k}.png", image_id=k) for k in range(4)))
    with pytest.raises(error if isinstance(error, type) else type(error)):
        convert([("", data)], tmp_path / "new", Options("yolo"), progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_pictures_and_the_new_folder_has_ordinary_rights(tmp_path):
    seen: list[int] = []
    data = dataset(*(sample(f"{k}.png", image_id=k) for k in range(3)))
    convert([("", data)], tmp_path / "new", Options("voc"), progress=seen.append)
    assert seen == [1, 2, 3]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("bad", ["wrong size", "broken", "gone", "no ending"])
def test_pictures_that_cannot_be_used_are_left_out_and_reported(shapes, tmp_path, form, bad):
    class Broken(FolderFiles):
        def read_bytes(self, name, *, limit=None):
            if bad == "gone" and name == "0003.png":
                raise ImageError(f"{name}: missing")
            data = super().read_bytes(name, limit=limit)
            return data[:20] if bad == "broken" and name == "0003.png" else data

    before = open_dataset(shapes)
    third = before.samples[2]
    if bad == "wrong size":
        third = dataclasses.replace(third, width=third.height, height=third.width)
    if bad == "no ending":
        third = dataclasses.replace(third, file_name="0003")
    samples_ = (*before.samples[:2], third, *before.samples[3:])
    data = dataclasses.replace(before, samples=samples_, images=Broken(shapes / "images"))
    done = one(data, tmp_path / "new", form)
    [problem] = done.problems
    assert str(problem).startswith("0003")
    after = open_dataset(tmp_path / "new")
    assert len(after) == len(before) - 1 and after.problems == ()
    files = [path.name for path in (tmp_path / "new").rglob("*0003*")]
    assert files == []


def test_what_cannot_be_converted(tmp_path):
    with pytest.raises(DatasetError, match="1"):
        one(dataset(sample("1")), tmp_path / "new", "yolo")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="tfrecord"):
        Options("tfrecord")


def test_links_that_cannot_be(shapes, tmp_path, monkeypatch):
    def other_device(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", other_device)
    for data in (dataset(sample()), open_dataset(shapes)):
        with pytest.raises(OptionError, match="--link"):
            one(data, tmp_path / "new", "coco", link=True)
    assert list(tmp_path.iterdir()) == []


def test_written_json_is_what_coco_has(tmp_path):
    one(dataset(sample("1.png", [(1, 2, 4, 6)])), tmp_path / "new", "coco")
    values = json.loads((tmp_path / "new" / DEFAULT).read_text())
    assert values == {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12,
             "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}],
    }  # fmt: skip
