"""Whole files or none, and nothing left beside them."""

import os
import stat

import pytest

from ssd34.data.atomic import remove_parts, write_text, written_whole


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
