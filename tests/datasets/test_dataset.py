from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.datasets.classes import of_classes
from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files import tree as files_module
from ssd34.files.tree import FolderFiles, ZipFiles
from tests.conftest import TINY_LABELS, shapes_dataset


def png(width=4, height=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def archive_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def sample_of(name, *, width=4, height=3, labels=()):
    count = len(labels)
    return Sample(
        file_name=name,
        image_id=1,
        width=width,
        height=height,
        boxes=np.arange(4 * count, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        areas=np.arange(count, dtype=np.float64),
        crowd=np.array([k == 0 for k in range(count)], np.bool_),
        difficult=np.array([k == 1 for k in range(count)], np.bool_),
    )


def one_line(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures with a secret beside it."""
    root = tmp_path / "images"
    (root / "nested").mkdir(parents=True)
    (root / "a.png").write_bytes(png())
    (root / "nested" / "b.png").write_bytes(png(seed=1))
    (tmp_path / "secret.png").write_bytes(png(seed=2))
    return root


def test_folder_reads_files_also_in_folders_below(pictures):
    store = FolderFiles(pictures)
    assert store.exists("a.png") and store.read_bytes("a.png") == png()
    assert store.exists("nested/b.png") and store.read_bytes("nested/b.png") == png(seed=1)


@pytest.mark.parametrize("name", ["no.png", "", ".", "nested", "a.png/x"])
def test_folder_reports_what_is_no_file(pictures, name):
    store = FolderFiles(pictures)
    assert not store.exists(name)
    with pytest.raises(ImageError) as caught:
        store.read_bytes(name)
    assert "missing" in one_line(caught)


def test_folder_says_what_to_do_about_a_missing_picture(pictures):
    with pytest.raises(ImageError, match=r"no\.png: missing in .*; add it or take its annotations"):
        FolderFiles(pictures).read_bytes("no.png")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "d/" * 3000 + "a.png", "\ud800.png"])
def test_folder_takes_impossible_names_for_missing(pictures, name):
    store = FolderFiles(pictures)
    assert not store.exists(name)
    with pytest.raises(ImageError):
        store.read_bytes(name)


@pytest.mark.parametrize("name", ["../secret.png", "nested/../../secret.png", "a\0.png"])
def test_folder_refuses_names_that_lead_out(pictures, name):
    store = FolderFiles(pictures)
    assert not store.exists(name)
    with pytest.raises(ImageError) as caught:
        store.read_bytes(name)
    assert "leads out" in str(caught.value)


def test_folder_refuses_absolute_names_and_etc_passwd(pictures):
    store = FolderFiles(pictures)
    assert Path("/etc/passwd").is_file()
    upwards = "../" * 40 + "etc/passwd"
    assert (pictures / upwards).is_file()
    for name in ("/etc/passwd", upwards, str(pictures.parent / "secret.png")):
        assert not store.exists(name)
        with pytest.raises(ImageError, match="leads out"):
            store.read_bytes(name)


def test_folder_refuses_a_neighbour_whose_name_starts_alike(pictures):
    twin = pictures.parent / "images-private"
    twin.mkdir()
    (twin / "a.png").write_bytes(png())
    assert not FolderFiles(pictures).exists("../images-private/a.png")


def test_folder_refuses_symlinks_that_lead_out(pictures):
    (pictures / "link.png").symlink_to(pictures.parent / "secret.png")
    (pictures / "up").symlink_to(pictures.parent)
    store = FolderFiles(pictures)
    for name in ("link.png", "up/secret.png"):
        assert (pictures / name).is_file()
        assert not store.exists(name)
        with pytest.raises(ImageError, match="leads out"):
            store.read_bytes(name)


def test_folder_follows_symlinks_that_stay_inside(pictures):
    (pictures / "link.png").symlink_to(pictures / "a.png")
    assert FolderFiles(pictures).read_bytes("link.png") == png()


def test_folder_may_itself_be_a_symlink(pictures, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(pictures)
    assert FolderFiles(link).read_bytes("nested/b.png") == png(seed=1)


def test_files_above_the_limit_are_refused_unread(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", len(png()) - 1)
    packed = ZipFiles(archive_of(tmp_path / "a.zip", {"images/a.png": png()}), "images/")
    for store in (FolderFiles(pictures), packed):
        with pytest.raises(ImageError, match="larger than"):
            store.read_bytes("a.png")
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", len(png()))
    for store in (FolderFiles(pictures), packed):
        assert store.read_bytes("a.png") == png()


@pytest.fixture
def packed(tmp_path):
    members = {f"images/{k}.png": png(seed=k) for k in range(20)}
    return ZipFiles(archive_of(tmp_path / "set.zip", members | {"secret.png": b"!"}), "images/")


def test_zip_reads_members_below_its_prefix(packed):
    assert packed.exists("3.png") and packed.read_bytes("3.png") == png(seed=3)


@pytest.mark.parametrize("name", ["no.png", "", "../secret.png", "/etc/passwd", "a\0b"])
def test_zip_reports_missing_members(packed, name):
    if name:
        assert not packed.exists(name)
    with pytest.raises(ImageError) as caught:
        packed.read_bytes(name or "no.png")
    assert "missing" in one_line(caught) and "set.zip" in str(caught.value)


def overwrite(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_zip_with_damaged_pixels_gives_an_image_error(tmp_path):
    path = archive_of(tmp_path / "set.zip", {"images/a.png": png(40, 40)})
    start = path.read_bytes().index(b"images/a.png") + len("images/a.png")
    # 0xff starts a deflate block of a kind that does not exist.
    overwrite(path, start, b"\xff" * 8)
    with pytest.raises(ImageError) as caught:
        ZipFiles(path, "images/").read_bytes("a.png")
    assert "a.png" in one_line(caught) and "broken" in str(caught.value)


def test_zip_with_a_wrong_checksum_gives_an_image_error(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("images/a.png", png())
    overwrite(path, path.read_bytes().index(png()) + 30, b"\0\0\0")
    with pytest.raises(ImageError, match="broken"):
        ZipFiles(path, "images/").read_bytes("a.png")


def test_encrypted_zip_member_gives_an_image_error(tmp_path):
    path = archive_of(tmp_path / "set.zip", {"images/a.png": png()})
    content = path.read_bytes()
    # Bit 0 of the general purpose flags, in the member's own header and in the directory.
    overwrite(path, content.index(b"PK\x03\x04") + 6, b"\x01")
    overwrite(path, content.index(b"PK\x01\x02") + 8, b"\x01")
    with pytest.raises(ImageError) as caught:
        ZipFiles(path, "images/").read_bytes("a.png")
    one_line(caught)


def test_zip_works_after_pickling_also_when_already_open(packed):
    assert packed.read_bytes("0.png") == png(seed=0)
    copy = pickle.loads(pickle.dumps(packed))
    assert copy.read_bytes("1.png") == png(seed=1)
    assert packed.read_bytes("2.png") == png(seed=2)


def test_zip_works_from_threads(packed):
    wrong = []

    def read_all(first):
        for k in range(40):
            number = (first + k) % 20
            if packed.read_bytes(f"{number}.png") != png(seed=number):
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


def test_read_gives_the_pictures_pixels(shapes):
    data = open_dataset(shapes)
    for sample in data.samples[:3]:
        with Image.open(shapes / "images" / sample.file_name) as picture:
            np.testing.assert_array_equal(data.read(sample), np.asarray(picture))


def test_read_refuses_a_picture_of_another_size(pictures):
    data = Dataset("set", TINY_LABELS, (sample_of("a.png", width=5),), FolderFiles(pictures))
    with pytest.raises(ImageError) as caught:
        data.read(data.samples[0])
    message = one_line(caught)
    assert "a.png" in message and "5 x 3" in message and "4 x 3" in message


def test_read_names_the_broken_picture(pictures):
    (pictures / "a.png").write_bytes(b"no picture")
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(pictures))
    with pytest.raises(ImageError) as caught:
        data.read(data.samples[0])
    assert one_line(caught).startswith("a.png: not a picture")


def test_read_has_a_pixel_limit(pictures):
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(pictures))
    assert data.read(data.samples[0], max_pixels=12).shape == (3, 4, 3)
    with pytest.raises(ImageError, match="4 x 3 pixels are more than the limit of 11"):
        data.read(data.samples[0], max_pixels=11)


def test_ignored_is_crowd_or_difficult():
    assert sample_of("a.png", labels=(1, 2, 3)).ignored.tolist() == [True, True, False]


def test_problem_reads_as_one_line():
    assert str(Problem("a.png", "the picture is missing")) == "a.png: the picture is missing"


def test_labels_in_matches_by_name():
    labels = LabelSet(("dog", "person"), (5, 9))
    data = Dataset("set", labels, (sample_of("a.png"),), FolderFiles(Path()))
    table = data.labels_in(COCO_LABELS)
    # person is COCO's first class; dog has id 18, with id 12 missing before it.
    assert table.tolist() == [0, 17, 1]


def test_labels_in_names_the_unknown_class():
    labels = LabelSet(("person", "unicorn"), (1, 2))
    data = Dataset("my-set", labels, (sample_of("a.png"),), FolderFiles(Path()))
    with pytest.raises(DatasetError) as caught:
        data.labels_in(COCO_LABELS)
    message = one_line(caught)
    assert "my-set" in message and "'unicorn'" in message and "rename" in message


def test_of_classes_keeps_pictures_and_renumbers_boxes():
    samples = (sample_of("a.png", labels=(1, 3, 2, 3)), sample_of("b.png", labels=(2,)))
    data = Dataset("set", TINY_LABELS, samples, FolderFiles(Path()), (Problem("x", "y"),))
    kept = of_classes(data, ["cross", "square"])
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


def test_of_classes_with_an_unknown_name():
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(Path()))
    with pytest.raises(OptionError, match=r"disk.*disc"):
        of_classes(data, ["disk"])


def test_of_classes_takes_a_name_given_twice_once():
    data = Dataset("set", TINY_LABELS, (sample_of("a.png"),), FolderFiles(Path()))
    assert of_classes(data, ["disc", "disc"]).labels.names == ("disc",)


def test_data_set_survives_pickling_for_loader_processes(tmp_path):
    folder = shapes_dataset(tmp_path / "set", pictures=2)
    members = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    data = open_dataset(archive_of(tmp_path / "set.zip", members))
    before = data.read(data.samples[1])
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy.read(copy.samples[1]), before)
    assert json.loads(members["instances.json"])["images"][1]["id"] == copy.samples[1].image_id
