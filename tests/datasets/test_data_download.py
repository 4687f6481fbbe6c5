from __future__ import annotations

import dataclasses
import shutil
import threading
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest

from ssd34.datasets.download import (
    PUBLISHED_DATA,
    PublishedData,
    download_data,
    find_published_data,
)
from ssd34.datasets.open import open_dataset
from ssd34.errors import DatasetError, DownloadError, OptionError
from ssd34.files.web import download
from tests.conftest import shapes_dataset
from tests.support.datasets import published_archive as published
from tests.support.datasets import zipped
from tests.support.mirror import ranged

BOXES = "annotations/instances_val2017.json"


@pytest.fixture
def data(mirror, contents):
    boxes, pictures = contents
    parts = {"val2017": sum(map(len, pictures.values()))}
    archives = (
        published(mirror, zipped(boxes), "boxes.zip", {BOXES: len(boxes[BOXES])}),
        published(mirror, zipped(pictures), "val2017.zip", parts),
    )
    return PublishedData("small", archives, {"val2017": BOXES})


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """What the two archives of a small val2017 hold, laid out as COCO's."""
    folder = shapes_dataset(tmp_path_factory.mktemp("coco") / "set", pictures=12)
    pictures = {f"val2017/{f.name}": f.read_bytes() for f in sorted((folder / "images").iterdir())}
    boxes = {
        "annotations/captions_val2017.json": b"{}",
        BOXES: (folder / "instances.json").read_bytes(),
    }
    return boxes, {"val2017/": b"", **pictures}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("ssd34.datasets.download.ATTEMPTS", 3)
    quick = partial(download, timeout=5.0, pause=0.0)
    monkeypatch.setattr("ssd34.datasets.download.download", quick)


def files_of(folder):
    return sorted(
        str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and f.name[0] != "."
    )


def assert_whole(folder, contents, *, archives=()):
    boxes, pictures = contents
    expected = [name for name in pictures if name[-1] != "/"]
    kept = [f"archives/{name}" for name in ("unpacked.json", *archives)]
    assert files_of(folder) == sorted([*kept, BOXES, *expected])
    for name in expected:
        assert (folder / name).read_bytes() == pictures[name]
    assert (folder / BOXES).read_bytes() == boxes[BOXES]


def failure(error, data, folder, **options):
    with pytest.raises(error) as caught:
        download_data(data, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_fetched_is_read_at_once(data, tmp_path, contents):
    folder = tmp_path / "new" / "coco"
    download_data(data, folder)
    assert_whole(folder, contents)
    for path in (folder / BOXES, f"{folder}@val2017"):
        dataset = open_dataset(path)
        assert len(dataset) == 12 and dataset.problems == ()
        dataset.read(dataset.samples[0])


def test_a_second_call_fetches_nothing(data, tmp_path, mirror):
    download_data(data, tmp_path)
    (tmp_path / "val2017" / ".DS_Store").write_bytes(b"x")  # as a desktop leaves it
    download_data(data, tmp_path)
    assert len(mirror.requests) == 2


def test_archives_are_kept_on_request(data, tmp_path, contents, mirror):
    for _ in range(2):
        download_data(data, tmp_path, keep_archives=True)
        assert_whole(tmp_path, contents, archives=("boxes.zip", "val2017.zip"))
        shutil.rmtree(tmp_path / "val2017")
    assert len(mirror.requests) == 2


def test_an_archive_that_was_put_there_by_hand_is_not_fetched(data, tmp_path, contents, mirror):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "val2017.zip").write_bytes(zipped(contents[1]))
    download_data(data, tmp_path)
    assert_whole(tmp_path, contents)
    assert [name for name, _ in mirror.requests] == ["boxes.zip"]


def test_only_what_is_missing_is_fetched(data, tmp_path, contents, mirror):
    """As of coco-2017 after coco-val2017."""
    small = dataclasses.replace(data, archives=data.archives[1:])
    download_data(small, tmp_path)
    download_data(data, tmp_path)
    assert_whole(tmp_path, contents)
    assert [name for name, _ in mirror.requests] == ["val2017.zip", "boxes.zip"]


def test_progress(data, tmp_path):
    seen: dict[str, list[tuple[int, int]]] = {}
    download_data(
        data, tmp_path, progress=lambda what, n, of: seen.setdefault(what, []).append((n, of))
    )
    names = ("boxes.zip", "val2017.zip")
    assert list(seen) == [what + name for name in names for what in ("", "unpacking ")]
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0


def test_a_download_that_breaks_off_is_continued(data, tmp_path, contents, mirror):
    content = zipped(contents[1])
    answers = [ranged(content, stop_after=5000)] * 3 + [ranged(content)]
    boxes, pictures = data.archives
    pictures = published(mirror, content, "val2017.zip", pictures.parts, *answers)
    data = dataclasses.replace(data, archives=(boxes, pictures))
    message = failure(DownloadError, data, tmp_path)
    assert "15000 of" in message and str(tmp_path) in message
    assert files_of(tmp_path) == [BOXES, "archives/unpacked.json", "archives/val2017.zip.part"]
    download_data(data, tmp_path)
    assert_whole(tmp_path, contents)
    assert mirror.ranges("val2017.zip")[-1] == "bytes=15000-"


@pytest.mark.parametrize("after", [0, 1, 7, 12])
def test_unpacking_that_was_interrupted_is_gone_on_with(data, tmp_path, contents, mirror, after):
    steps = 0

    def interrupt(what, _done, _total):
        nonlocal steps
        steps += what == "unpacking val2017.zip"
        if steps > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_data(data, tmp_path, progress=interrupt)
    assert not (tmp_path / "val2017").exists()
    half = sorted((tmp_path / "archives" / "val2017.unpacking").rglob("*.png"))
    assert len(half) == after
    if half:
        half[-1].write_bytes(half[-1].read_bytes()[:10])
        half[0].write_bytes(bytes(half[0].stat().st_size))
    download_data(data, tmp_path)
    assert_whole(tmp_path, contents)
    assert mirror.ranges("val2017.zip") == [None]


def test_killed_between_the_receipt_and_the_move(data, tmp_path, contents, monkeypatch):
    move = Path.replace

    def killed(self, target):
        if Path(target).name == "val2017":
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        download_data(data, tmp_path)
    monkeypatch.undo()
    download_data(data, tmp_path)
    assert_whole(tmp_path, contents)


def test_two_at_once_do_not_disturb_each_other(data, tmp_path, contents):
    threads = [threading.Thread(target=download_data, args=(data, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(tmp_path, contents)


def test_a_folder_of_somebody_else_is_left_alone(data, tmp_path, mirror):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "mine.jpg").write_bytes(b"x")
    assert "val2017" in failure(DatasetError, data, tmp_path)
    assert mirror.requests == [] and files_of(tmp_path) == ["val2017/mine.jpg"]


def test_a_folder_that_was_changed_is_named(data, tmp_path):
    download_data(data, tmp_path)
    (tmp_path / "val2017" / "0003.png").unlink()
    message = failure(DatasetError, data, tmp_path)
    assert "val2017" in message and "11 files" in message


@pytest.mark.parametrize("text", ["", "[]", "{", '{"val2017": 3}'])
def test_a_broken_receipt_is_none(data, tmp_path, text):
    download_data(data, tmp_path)
    (tmp_path / "archives" / "unpacked.json").write_text(text)
    failure(DatasetError, data, tmp_path)


@pytest.mark.parametrize(("free", "enough"), [(1.0, False), (2.2, True)])
def test_room_is_looked_for_first(data, tmp_path, contents, mirror, monkeypatch, free, enough):
    """The largest archive and its contents lie there at once."""
    usage = namedtuple("usage", "free")
    size = data.archives[1].file.size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(int(free * size)))
    folder = tmp_path / "not" / "yet"
    if enough:
        download_data(data, folder)
        assert_whole(folder, contents)
    else:
        message = failure(DatasetError, data, folder)
        assert "GB" in message and "--output" in message
        assert mirror.requests == [] and not folder.parent.exists()


def test_the_catalogue():
    sizes = {}
    for name, data in PUBLISHED_DATA.items():
        for archive in data.archives:
            assert archive.file.urls[0].startswith("http://images.cocodataset.org/")
            assert len(bytes.fromhex(archive.file.sha256)) == 32
        parts = {part for archive in data.archives for part in archive.parts}
        assert {*data.splits, *data.splits.values()} <= parts
        sizes[name] = round(sum(archive.file.size for archive in data.archives) / 1e9, 1)
    assert sizes == {"coco-val2017": 1.1, "coco-2017": 20.4}
    with pytest.raises(OptionError, match="coco-val2017, coco-2017"):
        find_published_data("voc")
