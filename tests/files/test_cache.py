from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssd34.errors import ModelError, OptionError
from ssd34.files.cache import cache_folder
from ssd34.zoo.names import find_cached_model, find_published, is_cached, model_path
from tests.support.refusals import refused


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [({"SSD34_HOME": "/own", "XDG_CACHE_HOME": "/xdg"}, "linux", "/own"),
     ({"SSD34_HOME": "", "XDG_CACHE_HOME": "/xdg"}, "linux", "/xdg/ssd34"),
     ({"XDG_CACHE_HOME": "relative"}, "linux", "/home/me/.cache/ssd34"),
     ({}, "darwin", "/home/me/.cache/ssd34"),
     ({"LOCALAPPDATA": "/local", "XDG_CACHE_HOME": "/xdg"}, "win32", "/local/ssd34"),
     ({"SSD34_HOME": "~/models"}, "linux", "/home/me/models")],
)  # fmt: skip
def test_folder(environment, platform, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(environment, platform=platform) == Path(expected)


def test_a_relative_folder_becomes_absolute_and_none_is_told(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(tmp_path)
    assert cache_folder({"SSD34_HOME": "here"}) == tmp_path / "here"
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OptionError, match="SSD34_HOME"):
        cache_folder({})


PLOT = """
import os, sys
import ssd34.files.cache
from ssd34.errors import OptionError
try:
    ssd34.files.cache.load_matplotlib(extra="plot", why="a plot")
except OptionError as error:
    sys.exit(str(error))
print(os.environ["MPLCONFIGDIR"])
"""


def plot(before="", **environment):
    command = [sys.executable, "-c", before + PLOT]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout.strip(), result.stderr


def test_plots_where_the_home_cannot_be_written(tmp_path):
    (tmp_path / "no folder").write_text("")
    unusable = str(tmp_path / "no folder" / "home")
    code, folder, errors = plot(HOME=unusable, TMPDIR=str(tmp_path))
    assert (code, errors) == (0, "")
    assert Path(folder).parent == tmp_path and not Path(folder).exists(), "removed at the end"
    blocked = "import tempfile; tempfile._candidate_tempdir_list = list\n"
    code, _, errors = plot(blocked, HOME=unusable, TMPDIR=unusable)
    assert code == 1 and len(errors.splitlines()) == 1
    assert "TMPDIR" in errors and "SSD34_HOME" in errors


def test_the_callers_folder_for_matplotlib_holds(tmp_path):
    assert plot(HOME=str(tmp_path), MPLCONFIGDIR=str(tmp_path / "mine"))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_that_is_not_there(models):
    sha256 = "56d2c03a8c74c03f704509ccfcd91763991c6e1b92f63da730fb2b3d07565453"
    place = models / "ssd-12-int8.onnx"
    with refused(ModelError, "ssd34 models pull ssd-12-int8", place, "20485276", sha256):
        model_path("ssd-12-int8")
    assert not is_cached(find_published("ssd-12-int8").model)
    (models / "ssd-12.onnx").write_bytes(b"pointer")
    with refused(ModelError, " 7 ", "80366315"):
        find_cached_model("ssd-12")
    (models / "ssd-12-qdq.onnx").mkdir()
    with refused(ModelError, "ssd-12-qdq"):
        find_cached_model("ssd-12-qdq")
    with refused(ModelError, "default, default-float, ssd-10, ssd-12, ssd-12-int8"):
        model_path("ssd-13")
