"""Whole files or none, and nothing left beside them."""

import os
import stat

import pytest

from ssd34.files.atomic import remove_parts, write_text, written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_whole(tmp_path):
    target = tmp_path / "last.safetensors"
    target.write_text("before")
    with written_whole(target) as temporary:
        assert temporary.name == target.name
        temporary.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("name", ["n" * 255, "写" * 85])
def test_a_name_may_have_any_length_that_the_disk_takes(tmp_path, name):
    write_text(tmp_path / name, "whole")
    assert names(tmp_path) == [name]
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / name) as temporary:
        assert temporary.name == name
        remove_parts(tmp_path, [name])  # what another process has left
        assert names(tmp_path) == [name]


def test_a_failure_leaves_what_was_there(tmp_path):
    """And nothing of what a library had put beside the file it was told."""
    target = tmp_path / "last.safetensors"
    target.write_text("before")
    with pytest.raises(RuntimeError, match="broken"), written_whole(target) as temporary:
        temporary.write_text("half")
        temporary.with_name(".tmp123").write_text("the library's own")
        raise RuntimeError("broken")
    assert target.read_text() == "before"
    assert names(tmp_path) == [target.name]
    with pytest.raises(FileNotFoundError) as error, written_whole(tmp_path / "no" / "file"):
        pass
    assert error.value.filename == str(tmp_path / "no" / "file")


def test_parts_that_killed_processes_left_are_removed(tmp_path):
    """Folders, and the plain files of earlier versions; other files and links' targets stay."""
    folder = tmp_path / ".best[1].onnx.abc.part"
    folder.mkdir()
    (folder / ".tmp123").write_text("half")
    (tmp_path / ".best[1].onnx.def.part").write_text("half")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_text(elsewhere / "precious", "stays")
    (tmp_path / ".best[1].onnx.ghi.part").symlink_to(elsewhere, target_is_directory=True)
    stays = ["best[1].onnx", ".best1.onnx.abc.part", ".other.onnx.abc.part", "x.part"]
    for name in stays:
        (tmp_path / name).write_text("stays")
    remove_parts(tmp_path, ["best[1].onnx", "not there"])
    assert names(tmp_path) == sorted([*stays, "elsewhere"])
    assert names(elsewhere) == ["precious"]


def test_a_link_stays_and_its_file_is_written(tmp_path):
    """Whole or not at all, and what a killed process left beside that file is found."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.json").write_text("before")
    link = tmp_path / "link.json"
    link.symlink_to(elsewhere / "real.json")
    with pytest.raises(RuntimeError), written_whole(link) as temporary:
        assert temporary.name == link.name
        temporary.write_text("half")
        raise RuntimeError
    assert (elsewhere / "real.json").read_text() == "before"
    write_text(link, "after")
    assert link.is_symlink() and (elsewhere / "real.json").read_text() == "after"
    (elsewhere / ".real.json.abc.part").mkdir()
    remove_parts(tmp_path, ["link.json"])
    assert names(elsewhere) == ["real.json"]
    to_be = tmp_path / "to-be.json"
    to_be.symlink_to(elsewhere / "new.json")
    write_text(to_be, "new")
    assert to_be.is_symlink() and (elsewhere / "new.json").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="pipes of another kind")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "one")
        write_text(link, "two")
        assert os.read(reader, 100) == b"onetwo"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    assert names(tmp_path) == ["link", "pipe"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_device_is_written_to(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_text(link, "text")
    assert error.value.filename == str(link)
    assert names(tmp_path) == ["link"] and link.is_symlink()
