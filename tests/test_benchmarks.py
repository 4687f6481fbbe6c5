"""The scripts in benchmarks/ still run: all say what they take, the cheap ones measure a little."""

import json
import runpy
import sys
from hashlib import sha256

import numpy as np
import pytest

from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from tests.conftest import EXAMPLES, ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def run(monkeypatch, name, *arguments):
    script = ROOT / "benchmarks" / name
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("name", [script.name for script in SCRIPTS])
def test_every_script_says_what_it_takes(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, name, "--help")
    assert caught.value.code == 0
    writes_files = ("drawn_files.py", "picture_sets.py")
    assert "--json" in capsys.readouterr().out or name in writes_files


def test_whole_detect(monkeypatch, tmp_path, tiny_model):
    file = tmp_path / "r.json"
    run(
        monkeypatch, "whole_detect.py", EXAMPLES / "coffee.jpg", tiny_model, "--widths", 320,
        "--rounds", 1, "--threads", 1, "--json", file,
    )  # fmt: skip
    values = json.loads(file.read_text())
    assert [row["preprocessing"] for row in values["rows"]] == ["`card`", "`fast`"]
    assert values["sha256"] == {tiny_model.name: sha256(tiny_model.read_bytes()).hexdigest()}


def test_loader_and_evaluation(monkeypatch, tmp_path, tiny_model, shapes):
    for arguments in (
        ("loader.py", shapes, "--pictures", 4, "--sizes", 64, "--workers", 0, "--cache-mb", 0),
        ("evaluation.py", "--data", shapes, "--model", tiny_model, "--loop", 3, "--threads", 1,
         "--no-memory"),
    ):  # fmt: skip
        file = tmp_path / f"{arguments[0]}.json"
        run(monkeypatch, *arguments, "--json", file)
        assert json.loads(file.read_text())["rows"]


def test_picture_sets(monkeypatch, tmp_path, capsys):
    """A listed picture of COCO is there, smaller, with its boxes; a missing one is named."""
    ids, zipped = tmp_path / "ids.txt", tmp_path / "set.zip"
    ids.write_text("3\n77\n")
    place = f"{EXAMPLES / 'instances.json'}@{EXAMPLES}"
    run(monkeypatch, "picture_sets.py", ids, zipped, "--coco", place, "--side", 150)
    assert "77" in capsys.readouterr().out
    [sample] = open_dataset(zipped).samples
    assert (sample.width, sample.height) == (150, 100)
    original = open_dataset(place).samples[2]
    np.testing.assert_allclose(sample.boxes, original.boxes / 4, atol=0.02)
    run(monkeypatch, "picture_sets.py", "all", zipped, "--coco", place, "--side", 32)
    assert len(open_dataset(zipped).samples) == len(open_dataset(place).samples)


def test_native(monkeypatch, tmp_path, tiny_network, tiny_statistics):
    path = tmp_path / "int8.onnx"
    save_model(quantize_network(tiny_network, tiny_statistics, PUBLISHED_FORMS["13-qdq"]), path)
    run(monkeypatch, "native.py", path, "--rounds", 1, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert "int8 onnxruntime" in [row["what"] for row in found["rows"]]


@pytest.mark.parametrize(
    ("workers", "storage", "seconds"),
    [(1, 1e12, 5 + 10 * (20 + 0.5)),  # one after the other, and the worker waits for the command
     (10, 1e12, 5 + 20 + 10 * 0.5),  # all are done at once, and then written
     (5, 1e12, 5 + 20 + 0.5 + 20 + 5 * 0.5),  # those of the second round end as they began
     (10, 100, 5 + 10 * 100 * 5 / 100 + 0.5)],  # the storage serves one after the other
)  # fmt: skip
def test_the_course_of_a_job(workers, storage, seconds):
    """Ten parts of a hundred pictures, by hand."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))
    costs = script["Costs"](fixed=4, listing=0.001, picture=0.2, bytes=5, part=0.5)
    course = script["follow"](1000, costs, workers=workers, part=100, storage=storage)
    assert course.seconds == pytest.approx(seconds)
    assert course.busy["processors"] == pytest.approx(200 / workers / seconds)
