from __future__ import annotations

import stat
import zipfile

import pytest

from ssd34.errors import DatasetError
from ssd34.files.archive import unpack


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "a.zip"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "inner" / "out"


def fill(archive, *names, content=b"content", form=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(archive, "w", form) as opened:
        for name in names:
            opened.writestr(name, content)


def refused(archive, folder, *parts, max_bytes=10**6):
    with pytest.raises(DatasetError) as caught:
        unpack(archive, folder, parts, max_bytes=max_bytes)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and "\n" not in message
    return message


def test_only_the_wanted_parts_are_unpacked(archive, folder, tmp_path):
    fill(archive, "a/1", "a/b/2", "ab/3", "c", "d", "../evil", "/evil", "C:\\evil")
    unpack(archive, folder, ["a", "c"], max_bytes=1000)
    found = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert found == ["a.zip", "inner/out/a/1", "inner/out/a/b/2", "inner/out/c"]
    assert (folder / "a/b/2").read_bytes() == b"content"


@pytest.mark.parametrize(
    "name",
    ["a/../../evil", "a/..", "a//evil", "a/./evil", "a/b:evil", "a/..\\..\\evil", "a/\\evil"],
)
def test_names_that_lead_out_are_refused(archive, folder, name, tmp_path):
    fill(archive, "a/1", name)
    assert name in refused(archive, folder, "a").replace("\\\\", "\\")
    assert [f.name for f in tmp_path.rglob("*")] == ["a.zip"]


def test_what_else_is_refused(archive, folder):
    with zipfile.ZipFile(archive, "w") as opened:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    assert "a/link" in refused(archive, folder, "a")
    fill(archive, "a/x.jpg", "a/X.jpg")  # one on some systems
    assert "a/X.jpg" in refused(archive, folder, "a")
    fill(archive, "a/1")
    assert "b" in refused(archive, folder, "a", "b").removeprefix(str(archive))
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refused(archive, folder, "a")
    archive.write_bytes(b"<html>")
    refused(archive, folder, "a")


def test_a_bomb_is_refused_before_anything_is_written(archive, folder):
    fill(archive, "a/1", "a/2", content=bytes(600_000))
    assert archive.stat().st_size < 3000
    assert "unpacks to 1200000 bytes, expected at most 1000000" in refused(archive, folder, "a")
    assert not folder.exists()


def test_a_bomb_that_lies_about_its_size(archive, folder):
    fill(archive, "a/1", content=bytes(600_000))
    content = archive.read_bytes()
    size = (600_000).to_bytes(4, "little")
    assert content.count(size) == 2
    archive.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    assert "broken archive" in refused(archive, folder, "a", max_bytes=1000)
    assert (folder / "a/1").stat().st_size <= 100


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_damage_is_found(archive, folder, place):
    fill(archive, "a/1", content=bytes(range(256)) * 40, form=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    archive.write_bytes(content)
    assert "broken archive" in refused(archive, folder, "a")


def test_what_is_there_and_right_is_not_written_again(archive, folder):
    fill(archive, "a/1", "a/2", "a/3")
    unpack(archive, folder, ["a"], max_bytes=1000)
    (folder / "a/2").write_bytes(b"wrong!!")
    (folder / "a/3").unlink()
    kept = (folder / "a/1").stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    unpack(archive, folder, ["a"], max_bytes=1000, progress=lambda *step: seen.append(step))
    assert {f.name: f.read_bytes() for f in (folder / "a").iterdir()} == dict.fromkeys(
        "123", b"content"
    )
    assert (folder / "a/1").stat().st_mtime_ns == kept
    assert seen == [(0, 21), (7, 21), (14, 21), (21, 21)]
