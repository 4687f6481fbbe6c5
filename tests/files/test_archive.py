"""Archives that mean harm, made by hand."""

import gzip
import io
import tarfile
import zipfile

import pytest

from ssd34.errors import DatasetError, ModelError
from ssd34.files import archive as module
from ssd34.files.archive import is_archive, unpack, unpacked


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tar.gz"


def member(name, *, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def packed(path, *members):
    """A tarball of (TarInfo, content)."""
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def refused(path):
    with pytest.raises(ModelError) as caught, unpacked(path):
        pass
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1
    return message


def test_files_and_folders(path):
    packed(
        path,
        (member("./ssd", kind=tarfile.DIRTYPE), b""),
        (member("ssd/model.onnx", size=5), b"model"),
        (member("ssd/set_0/input_0.pb", size=3), b"one"),
    )
    with pytest.raises(RuntimeError), unpacked(path) as folder:
        assert (folder / "ssd" / "model.onnx").read_bytes() == b"model"
        assert (folder / "ssd" / "set_0" / "input_0.pb").read_bytes() == b"one"
        raise RuntimeError
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "//evil", "a/..", "..\\evil", "C:\\evil", "C:evil"]
)
def test_names_that_lead_out(path, name):
    packed(path, (member("a", size=1), b"a"), (member(name, size=1), b"e"))
    assert "leads out" in refused(path)
    assert not (path.parent.parent / "evil").exists()


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "a"), (tarfile.LNKTYPE, "a"),
     (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, ""),
     (tarfile.GNUTYPE_SPARSE, "")],
)  # fmt: skip
def test_members_that_are_neither_file_nor_folder(path, kind, link):
    packed(path, (member("a", size=1), b"a"), (member("b", kind=kind, link=link), b""))
    assert "'b'" in refused(path)


@pytest.mark.parametrize("names", [("a", "./a"), ("a", "a/b"), ("a/b", "a"), (".",)])
def test_two_members_in_one_place(path, names):
    packed(path, *((member(name, size=1), b"a") for name in names))
    assert repr(names[-1]).replace("./", "") in refused(path).replace("./", "")


def test_nothing_but_content_is_taken_over(path, monkeypatch):
    """Without the filters that tarfile has since Python 3.11.4."""
    monkeypatch.delattr(tarfile, "data_filter")
    for name in ("extract", "extractall"):
        monkeypatch.delattr(tarfile.TarFile, name)
    content = bytes(range(256)) * 1024
    info = member("ssd/a", size=len(content))
    info.mode, info.mtime, info.uid = 0o7777, 1, 12345
    packed(path, (info, content))
    with unpacked(path) as folder:
        found = (folder / "ssd" / "a").stat()
        assert (folder / "ssd" / "a").read_bytes() == content
    assert not found.st_mode & 0o7111 and found.st_mtime > 1 and found.st_uid != 12345


@pytest.mark.parametrize(
    ("size", "kind"),
    [(2**31 + 1, tarfile.REGTYPE), (2**50, tarfile.REGTYPE), (-(2**20), tarfile.REGTYPE),
     (2**28, tarfile.XHDTYPE), (2**28, tarfile.GNUTYPE_LONGNAME)],
)  # fmt: skip
def test_huge_and_negative_sizes_and_giant_headers(path, size, kind):
    """Extended headers would be read whole, of whatever size they claim."""
    path.write_bytes(gzip.compress(member("a", size=size, kind=kind).tobuf() + bytes(1024)))
    message = refused(path)
    assert size < 0 or str(size) in message


def test_headers_without_end(path):
    """Each extended header announces another."""
    one = member("pax", size=512, kind=tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    record = b"20 comment=" + b"x" * 8 + b"\n"
    path.write_bytes(gzip.compress((one + record.ljust(512, b"\0")) * 500))
    refused(path)


def test_bombs(path, monkeypatch):
    """Files that are huge together, too many members, zeros without end behind the archive's."""
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    packed(path, *((member(name, size=4), b"1234") for name in "abc"))
    assert "'c'" in (message := refused(path)) and "12 bytes" in message
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member("a", size=1).tobuf() + b"a".ljust(512, b"\0"))
        file.write(bytes(6 * 2**20))
    assert "10 bytes" in refused(path)
    monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    packed(path, *((member(str(k)), b"") for k in range(6)))
    assert "5 members" in refused(path)


def test_truncated_or_damaged(path):
    packed(path, (member("a", size=10_240), bytes(range(256)) * 40))
    content = path.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    cut = [content[:keep] for keep in (0, 5, 30, middle, len(content) - 1)]
    for wrong in (changed, *cut, b"hello", b"\x1f\x8b" + b"?" * 50, gzip.compress(b"hello")):
        path.write_bytes(wrong)
        refused(path)


def test_names_of_archives(tmp_path):
    for name, expected in {"a.tar.gz": 1, "A.TGZ": 1, "a.tar": 0, "a.onnx": 0, "a.gz": 0}.items():
        assert is_archive(tmp_path / name) is bool(expected)


# --- zips -----------------------------------------------------------------------------------


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


def test_only_the_wanted_parts_are_unpacked(archive, folder, tmp_path):
    fill(archive, "a/", "a/1", "a/b/2", "ab/3", "c", "d", "../evil", "/evil", "C:\\evil")
    unpack(archive, folder, ["a", "c"])
    found = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert found == ["a.zip", "inner/out/a/1", "inner/out/a/b/2", "inner/out/c"]
    assert (folder / "a/b/2").read_bytes() == b"content"


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_damage_is_found(archive, folder, place):
    fill(archive, "a/1", content=bytes(range(256)) * 40, form=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        unpack(archive, folder, ["a"])
    assert str(caught.value).startswith(f"{archive}: ") and "\n" not in str(caught.value)


def test_what_is_there_and_right_is_not_written_again(archive, folder):
    fill(archive, "a/1", "a/2", "a/3")
    unpack(archive, folder, ["a"])
    (folder / "a/2").write_bytes(b"wrong!!")
    (folder / "a/3").unlink()
    kept = (folder / "a/1").stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    unpack(archive, folder, ["a"], progress=lambda *step: seen.append(step))
    assert {f.name: f.read_bytes() for f in (folder / "a").iterdir()} == dict.fromkeys(
        "123", b"content"
    )
    assert (folder / "a/1").stat().st_mtime_ns == kept
    assert seen == [(0, 21), (7, 21), (14, 21), (21, 21)]
