from __future__ import annotations

import hashlib
import io
import shlex
import zipfile
from pathlib import Path

import pytest

from ssd34.datasets import download as datasets
from ssd34.errors import DownloadError, OptionError
from ssd34.files.cache import PublishedFile
from tests.conftest import shapes_dataset
from tests.support.cli import attempt, read_document
from tests.support.mirror import ranged, status


def run(*arguments):
    return attempt("data", *arguments)


@pytest.fixture
def published(mirror, tmp_path, monkeypatch):
    """A small coco-val2017 in one archive."""
    source = shapes_dataset(tmp_path / "source", pictures=2)
    annotations = "annotations/instances_val2017.json"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.write(source / "instances.json", annotations)
        for picture in (source / "images").iterdir():
            archive.write(picture, f"val2017/{picture.name}")
    content = stream.getvalue()
    file = PublishedFile(
        "all.zip", len(content), hashlib.sha256(content).hexdigest(),
        (mirror.serve(ranged(content), name="all.zip"),),
    )  # fmt: skip
    parts = {annotations: 10_000, "val2017": 100_000}
    data = datasets.PublishedData(
        "coco-val2017", (datasets.Archive(file, parts),), {"val2017": annotations}
    )
    monkeypatch.setitem(datasets.PUBLISHED_DATA, "coco-val2017", data)
    return data


def test_the_command_that_is_printed_next_works(published, tmp_path):
    folder = tmp_path / "my coco"
    result = run("download", published.name, "--output", folder)
    assert result.exit_code == 0, result.output
    path, following = result.stdout.splitlines()
    assert following == f"next: ssd34 evaluate default --data {path}"
    (place,) = shlex.split(path)
    assert place == str(folder / "annotations/instances_val2017.json")
    assert run("check", place).exit_code == 0
    assert not (folder / "archives" / "all.zip").exists()


def test_archives_can_be_kept(published, tmp_path):
    result = run("download", published.name, "--output", tmp_path, "--keep-archives", "--json")
    (file,) = read_document("data download", result)["splits"].values()
    assert Path(file).is_file()
    assert (tmp_path / "archives" / "all.zip").is_file()


def test_what_cannot_be_fetched(published, tmp_path, mirror):
    mirror.serve(status(403), name="all.zip")
    result = run("download", published.name, "--output", tmp_path / "coco")
    assert isinstance(result.exception, DownloadError)
    assert "answers 403" in str(result.exception)


def test_a_name_that_is_not_published():
    result = run("download", "coco-2014")
    assert isinstance(result.exception, OptionError)
    assert run("download").exit_code == 2
