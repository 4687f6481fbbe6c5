from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssd34.errors import ModelError, OptionError
from ssd34.files.cache import PublishedFile, cache_folder
from ssd34.runtime.detector import Detector
from ssd34.zoo.catalogue import PUBLISHED, PublishedModel, published
from ssd34.zoo.names import cached_model, is_cached, model_path


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


@pytest.mark.parametrize("temporary", [True, False])
def test_plots_where_the_home_cannot_be_written(temporary, tmp_path):
    (tmp_path / "no folder").write_text("")
    unusable = str(tmp_path / "no folder" / "home")
    environment = {"HOME": unusable, "TMPDIR": str(tmp_path) if temporary else unusable}
    blocked = "" if temporary else "import tempfile; tempfile._candidate_tempdir_list = list\n"
    result = subprocess.run(
        [sys.executable, "-c", blocked + PLOT], env=environment, capture_output=True, text=True
    )
    if temporary:
        assert result.returncode == 0 and result.stderr == ""
        folder = Path(result.stdout.strip())
        assert folder.parent == tmp_path and not folder.exists(), "it is removed at the end"
    else:
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
        assert "TMPDIR" in result.stderr and "SSD34_HOME" in result.stderr


def test_the_callers_folder_for_matplotlib_holds(tmp_path):
    environment = {"HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "mine")}
    subprocess.run([sys.executable, "-c", PLOT], env=environment, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_that_is_not_there(models):
    with pytest.raises(ModelError) as caught:
        model_path("ssd-12-int8")
    sha256 = "56d2c03a8c74c03f704509ccfcd91763991c6e1b92f63da730fb2b3d07565453"
    place = str(models / "ssd-12-int8.onnx")
    for fact in ("ssd34 models pull ssd-12-int8", place, "20485276", sha256):
        assert fact in str(caught.value)
    assert not is_cached(published("ssd-12-int8").model)
    (models / "ssd-12.onnx").write_bytes(b"pointer")
    with pytest.raises(ModelError, match=r" 7 .*80366315"):
        cached_model("ssd-12")
    (models / "ssd-12-qdq.onnx").mkdir()
    with pytest.raises(ModelError, match="ssd-12-qdq"):
        cached_model("ssd-12-qdq")


def test_a_published_name_stands_for_its_file(models, monkeypatch, tiny_model):
    file = PublishedFile("tiny.onnx", tiny_model.stat().st_size, "0" * 64, ())
    entry = PublishedModel(
        name="tiny", model=file, test_data=None, opset=12, precision="float32", published_map=0.5
    )
    monkeypatch.setitem(PUBLISHED, "tiny", entry)
    shutil.copy(tiny_model, models / "tiny.onnx")
    assert model_path("tiny") == models / "tiny.onnx"
    assert Detector.load("tiny").spec.name == "tiny"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="default, default-float, ssd-10, ssd-12, ssd-12-int8"):
        model_path("ssd-13")
