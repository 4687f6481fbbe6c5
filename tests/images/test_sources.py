import errno
import os
from pathlib import Path

import pytest

from ssd34.errors import ImageError
from ssd34.files.tree import FolderFiles
from ssd34.images.sources import find_pictures
from tests.support.refusals import refused


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.png", "a.jpg", "notes.txt", ".hidden.jpg", "UPPER.JPG", "sub/c.webp",
        "sub/deeper/d.jpeg", ".git/e.png", "sub/.cache/f.png",
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def relatives(pictures):
    return [picture.relative.as_posix() for picture in pictures]


def test_folder_is_searched_through_without_hidden_files(tree):
    found = find_pictures([str(tree)])
    assert relatives(found) == ["UPPER.JPG", "a.jpg", "b.png", "sub/c.webp", "sub/deeper/d.jpeg"]
    assert all(picture.path == tree / picture.relative for picture in found)


def test_file_counts_whatever_its_ending(tree):
    for name in ("notes.txt", ".hidden.jpg"):
        (picture,) = find_pictures([str(tree / name)])
        assert picture.path == tree / name and picture.relative == Path(name)


def test_pattern(tree):
    for pattern, names in (
        ("*.jpg", ["a.jpg"]), ("*.[jp][pn]g", ["a.jpg", "b.png"]), ("**/*.jpeg", ["d.jpeg"]),
        ("*", ["UPPER.JPG", "a.jpg", "b.png"]),
    ):  # fmt: skip
        assert relatives(find_pictures([str(tree / pattern)])) == names
    for name in ("shot[1].jpg", "shot1.jpg"):  # a file's own name comes first
        (tree / name).touch()
    assert relatives(find_pictures([str(tree / "shot[1].jpg")])) == ["shot[1].jpg"]


def test_order_is_that_of_the_sources(tree):
    found = find_pictures([str(tree / "sub"), str(tree / "b.png"), str(tree / "a.jpg")])
    assert relatives(found) == ["c.webp", "deeper/d.jpeg", "b.png", "a.jpg"]


def test_file_found_twice_counts_once(tree):
    (tree / "link.png").symlink_to(tree / "b.png")
    sources = [str(tree / "b.png"), str(tree / "sub" / ".." / "b.png"), str(tree / "link.png")]
    assert relatives(find_pictures(sources)) == ["b.png"]
    assert len(find_pictures([str(tree), str(tree / "*.png"), str(tree / "a.jpg")])) == 5


def test_relative_never_leads_upwards(tree, monkeypatch):
    monkeypatch.chdir(tree / "sub")
    found = find_pictures(["../a.jpg", "..", "../*.png"])
    assert found
    for picture in found:
        assert not picture.relative.is_absolute() and ".." not in picture.relative.parts


def test_links_to_folders_are_not_followed_in_circles(tree):
    (tree / "sub" / "loop").symlink_to(tree)
    (tree / "broken.jpg").symlink_to(tree / "nothing.jpg")
    assert len(find_pictures([str(tree)])) == 5


def test_a_folder_that_may_not_be_read_is_told_and_left_out(tree, monkeypatch, caplog):
    scan = os.scandir

    def refuse(place):
        if os.path.basename(place) == "sub":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scan(place)

    whole = relatives(find_pictures([str(tree)])), FolderFiles(tree).names(deep=True)
    assert not caplog.messages
    monkeypatch.setattr(os, "scandir", refuse)
    seen = relatives(find_pictures([str(tree)])), FolderFiles(tree).names(deep=True)
    for before, after in zip(whole, seen, strict=True):
        assert after == [name for name in before if not name.startswith("sub/")] != before
    assert [str(tree / "sub") in message for message in caplog.messages] == [True]  # once


def test_a_source_that_may_not_be_read_is_said_to_be_that(tree, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with refused(ImageError, tree, "rights"):
        find_pictures([str(tree)])


def test_sources_that_hold_no_pictures(tree, tmp_path_factory):
    assert find_pictures([]) == []
    empty = tmp_path_factory.mktemp("empty")
    for source, *facts in ((tree / "no.jpg",), (tree / "*.gif",), (empty, ".jpg", ".webp")):
        with refused(ImageError, source, *facts):
            find_pictures([str(tree), str(source)])


@pytest.mark.parametrize(
    ("source", "remedy"),
    [("-", "/dev/stdin"), ("https://example.org/a.jpg", "download"),
     ("set.zip", "ssd34 evaluate")],
)  # fmt: skip
def test_what_people_try(tmp_path, monkeypatch, source, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.zip").write_bytes(b"PK")
    with refused(ImageError, remedy):
        find_pictures([source])
