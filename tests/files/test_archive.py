"""Archives that mean harm, made by hand."""

import gzip
import io
import tarfile

import pytest

from ssd34.errors import ModelError
from ssd34.files import archive as module
from ssd34.files.archive import is_archive, unpacked


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


def header_only(path, info):
    """A tarball that claims a member and has none of its content."""
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
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
    assert "leads out of the folder" in refused(path)
    assert not (path.parent.parent / "evil").exists()


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "a"), (tarfile.LNKTYPE, "a"),
     (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, ""),
     (tarfile.GNUTYPE_SPARSE, "")],
)  # fmt: skip
def test_members_that_are_neither_file_nor_folder(path, kind, link):
    packed(path, (member("a", size=1), b"a"), (member("b", kind=kind, link=link), b""))
    assert "'b' is neither a plain file nor a folder" in refused(path)


def test_a_file_behind_a_link_is_not_written(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("d", kind=tarfile.SYMTYPE, link=str(outside))
    packed(path, (link, b""), (member("d/evil", size=1), b"e"))
    refused(path)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("names", [("a", "./a"), ("a", "a/b"), ("a/b", "a"), (".",)])
def test_two_members_in_one_place(path, names):
    packed(path, *((member(name, size=1), b"a") for name in names))
    assert repr(names[-1]).replace("./", "") in refused(path).replace("./", "")


def test_the_first_releases_of_python_3_11_unpack_too(path, monkeypatch):
    """tarfile has filters since 3.11.4 only."""
    monkeypatch.delattr(tarfile, "data_filter")
    for name in ("extract", "extractall"):
        monkeypatch.delattr(tarfile.TarFile, name)
    content = bytes(range(256)) * 1024
    packed(path, (member("ssd/model.onnx", size=len(content)), content))
    with unpacked(path) as folder:
        assert (folder / "ssd" / "model.onnx").read_bytes() == content
    packed(path, (member("../evil", size=1), b"e"))
    assert "leads out of the folder" in refused(path)


def test_nothing_but_content_is_taken_over(path):
    info = member("a", size=1)
    info.mode, info.mtime, info.uid = 0o7777, 1, 12345
    packed(path, (info, b"a"))
    with unpacked(path) as folder:
        found = (folder / "a").stat()
    assert not found.st_mode & 0o7111 and found.st_mtime > 1 and found.st_uid != 12345


@pytest.mark.parametrize("size", [2**31 + 1, 2**50])
def test_a_huge_claimed_size(path, size):
    message = refused(header_only(path, member("big", size=size)))
    assert str(size) in message and str(2**31) in message


def test_many_that_are_huge_together(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    packed(path, *((member(name, size=4), b"1234") for name in "abc"))
    message = refused(path)
    assert "'c'" in message and "12 bytes" in message


@pytest.mark.parametrize(
    ("size", "kind"),
    [(-(2**20), tarfile.REGTYPE), (2**28, tarfile.XHDTYPE), (2**28, tarfile.GNUTYPE_LONGNAME)],
)
def test_a_negative_size_and_giant_headers(path, size, kind):
    """Extended headers would be read whole, of whatever size they claim."""
    refused(header_only(path, member("a", size=size, kind=kind)))


def test_headers_without_end(path):
    """Each extended header announces another."""
    one = member("pax", size=512, kind=tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    record = b"20 comment=" + b"x" * 8 + b"\n"
    path.write_bytes(gzip.compress((one + record.ljust(512, b"\0")) * 500))
    refused(path)


def test_a_bomb_of_members(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    packed(path, *((member(str(k)), b"") for k in range(6)))
    assert "more than 5 members" in refused(path)


def test_a_bomb_of_nothing(path, monkeypatch):
    """Zeros without end behind the archive's own end."""
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member("a", size=1).tobuf() + b"a".ljust(512, b"\0"))
        file.write(bytes(6 * 2**20))
    assert "it holds more than 100 bytes" in refused(path)


def test_truncated_or_damaged(path):
    packed(path, (member("a", size=10_240), bytes(range(256)) * 40))
    content = path.read_bytes()
    middle = len(content) // 2
    for keep in (0, 5, 30, middle, len(content) - 1):
        path.write_bytes(content[:keep])
        refused(path)
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    refused(path)


@pytest.mark.parametrize("content", [b"hello", b"\x1f\x8b" + b"?" * 50, gzip.compress(b"hello")])
def test_no_archive(path, content):
    path.write_bytes(content)
    refused(path)


def test_names_of_archives(tmp_path):
    for name, expected in {"a.tar.gz": 1, "A.TGZ": 1, "a.tar": 0, "a.onnx": 0, "a.gz": 0}.items():
        assert is_archive(tmp_path / name) is bool(expected)
