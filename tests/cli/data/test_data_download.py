from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ssd34.datasets import download as datasets
from tests.conftest import shapes_dataset
from tests.support.cli import attempt, read_document
from tests.support.datasets import published_archive, zipped


def run(*arguments):
    return attempt("data", *arguments)


@pytest.fixture
def published(mirror, tmp_path, monkeypatch):
    """A small coco-val2017 in one archive."""
    source = shapes_dataset(tmp_path / "source", pictures=2)
    annotations = "annotations/instances_val2017.json"
    members = {f"val2017/{f.name}": f.read_bytes() for f in (source / "images").iterdir()}
    members[annotations] = (source / "instances.json").read_bytes()
    parts = {annotations: 10_000, "val2017": 100_000}
    archive = published_archive(mirror, zipped(members), "all.zip", parts)
    data = datasets.PublishedData("coco-val2017", (archive,), {"val2017": annotations})
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
