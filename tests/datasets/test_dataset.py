from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.datasets.dataset import Dataset, Problem, fingerprint
from ssd34.datasets.open import open_dataset, rename_classes, select_classes, use_coco_names
from ssd34.datasets.voc import NAMES
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files import tree as files_module
from ssd34.files.tree import FolderFiles, ZipFiles
from tests.conftest import TINY_LABELS, shapes_dataset
from tests.support.datasets import sample
from tests.support.pictures import encoded, noise
from tests.support.refusals import refused


def drawn(width=4, height=3, seed=0):
    return encoded(noise(height, width, seed=seed))


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def sample_of(name, *, width=4, height=3, labels=()):
    numbers = np.arange(len(labels))
    return sample(
        name, np.arange(4 * len(labels)), width=width, height=height, labels=labels,
        areas=numbers, crowd=numbers == 0, difficult=numbers == 1,
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures with a secret beside it."""
    root = tmp_path / "images"
    (root / "nested").mkdir(parents=True)
    (root / "a.png").write_bytes(drawn())
    (root / "nested" / "b.png").write_bytes(drawn(seed=1))
    (tmp_path / "secret.png").write_bytes(drawn(seed=2))
    return root


def test_folder_reads_files_also_in_folders_below(pictures, tmp_path):
    (tmp_path / "link").symlink_to(pictures)
    for store in (FolderFiles(pictures), FolderFiles(tmp_path / "link")):
        assert store.exists("a.png") and store.read_bytes("a.png") == drawn()
        assert store.exists("nested/b.png") and store.read_bytes("nested/b.png") == drawn(seed=1)


@pytest.mark.parametrize(
    "name",
    ["no.png", "", ".", "nested", "a.png/x", "x" * 300 + ".png", "d/" * 3000 + "a.png",
     "\ud800.png", "../secret.png", "nested/../../secret.png", "a\0.png"],
    ids=range(11),
)  # fmt: skip
def test_folder_reports_what_is_no_file_in_it(pictures, name):
    store = FolderFiles(pictures)
    assert not store.exists(name)
    with refused(ImageError):
        store.read_bytes(name)


def test_folder_refuses_what_is_there_and_leads_out(pictures):
    twin = pictures.parent / "images-private"
    twin.mkdir()
    (twin / "a.png").write_bytes(drawn())
    (pictures / "link.png").symlink_to(pictures.parent / "secret.png")
    (pictures / "up").symlink_to(pictures.parent)
    store = FolderFiles(pictures)
    for name in (
        "/etc/passwd", "../" * 40 + "etc/passwd", str(pictures.parent / "secret.png"),
        "link.png", "up/secret.png", "../images-private/a.png",
    ):  # fmt: skip
        assert (pictures / name).is_file()
        assert not store.exists(name)
        with pytest.raises(ImageError, match="leads out"):
            store.read_bytes(name)
    (pictures / "inside.png").symlink_to(pictures / "a.png")
    assert store.read_bytes("inside.png") == drawn()
    (pictures / "again").symlink_to(pictures / "nested")
    (pictures / "loop").symlink_to(pictures)
    assert [n for n in store.names(deep=True) if "/" in n] == ["again/b.png", "nested/b.png"]


def test_files_above_the_limit_are_refused_unread(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", len(drawn()) - 1)
    packed = ZipFiles(zipped(tmp_path / "a.zip", {"images/a.png": drawn()}), "images/")
    for store in (FolderFiles(pictures), packed):
        with pytest.raises(ImageError, match="larger than"):
            store.read_bytes("a.png")
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", len(drawn()))
    for store in (FolderFiles(pictures), packed):
        assert store.read_bytes("a.png") == drawn()


@pytest.fixture
def packed(tmp_path):
    members = {f"images/{k}.png": drawn(seed=k) for k in range(20)}
    return ZipFiles(zipped(tmp_path / "set.zip", members | {"secret.png": b"!"}), "images/")


def test_zip_reads_members_below_its_prefix(packed):
    assert packed.exists("3.png") and packed.read_bytes("3.png") == drawn(seed=3)
    for name in ("no.png", "../secret.png", "/etc/passwd", "a\0b"):
        assert not packed.exists(name)
        with refused(ImageError, "set.zip"):
            packed.read_bytes(name)


@pytest.mark.parametrize(
    ("form", "places"),
    # 0xff starts a deflate block of a kind that does not exist; a changed byte of a stored member;
    # bit 0 of the general purpose flags, in the member's own header and in the directory.
    [(zipfile.ZIP_DEFLATED, [(b"images/a.png", 12, b"\xff" * 8)]),
     (zipfile.ZIP_STORED, [(b"IHDR", 20, b"\0\0\0")]),
     (zipfile.ZIP_DEFLATED, [(b"PK\x03\x04", 6, b"\1"), (b"PK\x01\x02", 8, b"\1")])],
    ids=["damaged", "checksum", "encrypted"],
)  # fmt: skip
def test_a_damaged_or_encrypted_member_gives_an_image_error(tmp_path, form, places):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", form) as archive:
        archive.writestr("images/a.png", drawn(40, 40))
    content = bytearray(path.read_bytes())
    for mark, offset, data in places:
        start = content.index(mark) + offset
        content[start : start + len(data)] = data
    path.write_bytes(content)
    with refused(ImageError, "a.png"):
        ZipFiles(path, "images/").read_bytes("a.png")


def test_zip_works_from_threads(packed):
    wrong = []

    def read_all(first):
        for k in range(40):
            number = (first + k) % 20
            if packed.read_bytes(f"{number}.png") != drawn(seed=number):
                wrong.append(number)

    threads = [threading.Thread(target=read_all, args=(5 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORKED = """
import os, sys
from ssd34.files.tree import ZipFiles
from tests.support.refusals import refused

store = ZipFiles(sys.argv[1], "images/")
# The file is open now, its buffer holds the beginning of member 1.
assert store.read_bytes("0") == b"0" * 500
child = os.fork()
if child == 0:
    # Would move the position in the file under the parent's feet, were it shared.
    os._exit(0 if store.read_bytes("2") == b"2" * 90_000 else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert store.read_bytes("1") == b"1" * 90_000
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_zip_works_in_a_forked_process_and_after_it(tmp_path):
    """In a program of its own: one in which other libraries have threads is not safe to fork."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, length in (("0", 500), ("1", 90_000), ("2", 90_000)):
            archive.writestr(f"images/{name}", name.encode() * length)
    result = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_read_names_the_picture_that_is_not_as_annotated_or_broken(pictures):
    data = Dataset("set", TINY_LABELS, (sample_of("a.png", width=5),), FolderFiles(pictures))
    with refused(ImageError, "a.png", "5 x 3", "4 x 3"):
        data.read(data.samples[0])
    (pictures / "a.png").write_bytes(b"no picture")
    with refused(ImageError, "a.png: "):
        data.read(data.samples[0])


def test_read_has_a_pixel_limit(pictures):
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(pictures))
    assert data.read(data.samples[0], max_pixels=12).shape == (3, 4, 3)
    with pytest.raises(ImageError, match=r"4 x 3.* 11"):
        data.read(data.samples[0], max_pixels=11)


def test_labels_in_matches_by_name():
    def table_of(names):
        labels = LabelSet(names, (5, 9))
        data = Dataset("my-set", labels, (sample_of("a.png"),), FolderFiles(Path()))
        return data.labels_in(COCO_LABELS)

    # person is COCO's first class; dog has id 18, with id 12 missing before it.
    assert table_of(("dog", "person")).tolist() == [0, 17, 1]
    with refused(DatasetError, "my-set", "'unicorn'"):
        table_of(("person", "unicorn"))


def test_of_classes_keeps_pictures_and_renumbers_boxes():
    samples = (sample_of("a.png", labels=(1, 3, 2, 3)), sample_of("b.png", labels=(2,)))
    data = Dataset("set", TINY_LABELS, samples, FolderFiles(Path()), (Problem("x", "y"),))
    kept = select_classes(data, ["cross", "square"])
    assert kept.labels == LabelSet(("square", "cross"), (3, 11))
    first, second = kept.samples
    assert first.labels.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(first.boxes, samples[0].boxes[[0, 1, 3]])
    assert first.areas.tolist() == [0, 1, 3]
    assert first.crowd.tolist() == [True, False, False]
    assert first.difficult.tolist() == [False, True, False]
    assert second.labels.shape == (0,) and second.boxes.shape == (0, 4)
    assert kept.problems == data.problems and kept.images is data.images
    assert data.samples[0].labels.tolist() == [1, 3, 2, 3]


def test_of_classes_with_an_unknown_name_and_one_given_twice():
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(Path()))
    with pytest.raises(OptionError, match=r"disk.*disc"):
        select_classes(data, ["disk"])
    assert select_classes(data, ["disc", "disc"]).labels.names == ("disc",)


def test_data_set_survives_pickling_for_loader_processes(tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=2)
    data = open_dataset(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder)))
    before = data.read(data.samples[1])
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy.read(copy.samples[1]), before)
    assert copy.samples[1].image_id == 2


def test_classes_of_the_same_name_become_one(shapes):
    before = open_dataset(shapes)
    after = rename_classes(before, {"square": "round", "disc": "round"})
    assert after.labels == LabelSet(("round", "cross"), (3, 11))
    table = {1: 1, 2: 1, 3: 2}
    for a, b in zip(before.samples, after.samples, strict=True):
        assert [table[int(label)] for label in a.labels] == b.labels.tolist()


def test_names_of_voc_as_coco_has_them(shapes):
    before = dataclasses.replace(open_dataset(shapes), labels=LabelSet.from_names(NAMES))
    labels = use_coco_names(before).labels
    assert len(labels) == 20
    for name, category in zip(labels.names, labels.category_ids, strict=True):
        assert COCO_LABELS.category_id(COCO_LABELS.label(name)) == category
    assert use_coco_names(open_dataset(shapes)).labels.names == ("square", "disc", "cross")


@pytest.fixture(scope="module")
def dataset(shapes):
    return open_dataset(str(shapes))


def changed(dataset, **changes):
    first = dataclasses.replace(dataset.samples[0], **changes)
    return dataclasses.replace(dataset, samples=(first, *dataset.samples[1:]))


def test_the_same_data_anywhere_has_the_same_fingerprint(dataset, tmp_path):
    again = open_dataset(str(shapes_dataset(tmp_path / "copy", pictures=12)))
    assert fingerprint(again) == fingerprint(dataset)
    assert len(fingerprint(dataset)) == 64


@pytest.mark.parametrize(
    "change",
    [lambda d: dataclasses.replace(d, samples=d.samples[1:]),
     lambda d: dataclasses.replace(d, samples=(d.samples[1], d.samples[0], *d.samples[2:])),
     lambda d: dataclasses.replace(d, labels=LabelSet(("a", "b", "c"), d.labels.category_ids)),
     lambda d: changed(d, file_name="other.png"), lambda d: changed(d, image_id=99),
     lambda d: changed(d, width=1000),
     lambda d: changed(d, boxes=d.samples[0].boxes + np.float32(0.25)),
     lambda d: changed(d, labels=d.samples[0].labels % 3 + 1),
     lambda d: changed(d, areas=d.samples[0].areas + 1),
     lambda d: changed(d, crowd=~d.samples[0].crowd),
     lambda d: changed(d, difficult=~d.samples[0].difficult)],
)  # fmt: skip
def test_every_change_shows(dataset, change):
    assert fingerprint(change(dataset)) != fingerprint(dataset)


def test_half_a_character_in_a_class_name_is_refused_when_it_is_read(shapes, tmp_path):
    """JSON and YAML can spell it, and no file of text can hold it."""
    text = (shapes / "instances.json").read_text().replace("square", "square\\ud800")
    (tmp_path / "instances.json").write_text(text)
    with refused(DatasetError, tmp_path, r"square\ud800"):
        open_dataset(tmp_path)
    with refused(OptionError, r"\udcff"):
        LabelSet.from_names(["disc", "\udcff"])
    assert LabelSet.from_names(["\U0001f600", "Stra\xdfe"]).name(1) == "\U0001f600"
