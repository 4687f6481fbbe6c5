from __future__ import annotations

import json
import shutil

import onnx
import pytest
from PIL import Image

from ssd34.files.cache import PublishedFile
from ssd34.zoo.names import PUBLISHED, PublishedModel, model_path
from tests.support.cli import invoke, read_document
from tests.support.mirror import CONTENT, POINTER, SHA256, SIZE, ranged, status, whole
from tests.support.refusals import assert_facts


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "home" / "models"


@pytest.fixture
def small(mirror, monkeypatch):
    """A published model that lies on the local mirror, with test data."""
    model = PublishedFile("small.onnx", SIZE, SHA256, (mirror.serve(ranged(), name="small.onnx"),))
    test_data = PublishedFile(
        "small.tar.gz", SIZE, SHA256, (mirror.serve(whole(), name="small.tar.gz"),)
    )
    entry = PublishedModel(
        name="small", model=model, test_data=test_data, opset=12,
        published_map=0.5,
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "small", entry)
    return entry


def models(*arguments):
    return invoke("models", *arguments).stdout


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}


def assert_failed(result, *facts):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert_facts(err, *facts)


# --- list -----------------------------------------------------------------------------------


def test_list_fits_into_100_columns_and_says_what_the_numbers_are_worth(home):
    text = models()
    assert models("list") == text
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines()[:-1])
    assert text.splitlines()[-1] == f"cache: {home}"
    found = rows(text)
    assert found["ssd-10"] == ["80.4", "MB", "10", "float32", "0.195", "Apache-2.0", "no"]
    assert found["ssd-12-int8"] == [
        "20.5", "MB", "12", "int8", "QOperator", "0.1892", "*", "Apache-2.0", "no",
    ]  # fmt: skip
    assert set(PUBLISHED) <= set(found)
    assert_facts(" ".join(text.split()), "sparse COCO ids", "pycocotools")


def test_json():
    values = json.loads(models("--json"))
    assert values == json.loads(models("list", "--json"))
    by_name = {model["name"]: model for model in values["models"]}
    assert list(by_name) == ["default", "default-float", *PUBLISHED]
    qdq = by_name["ssd-12-qdq"]
    assert (qdq["bytes"], qdq["precision"], qdq["form"]) == (20479614, "int8", "QDQ")
    assert (qdq["opset"], qdq["published_map"]) == (12, 0.1863)
    assert qdq["path"].startswith(values["cache"]) and not qdq["cached"]
    assert qdq["map_caveat"] and by_name["ssd-10"]["map_caveat"] == ""
    assert by_name["default"]["embedded"] and by_name["default"].keys() == qdq.keys()
    assert qdq["test_data"]["bytes"] == 26976158
    for name in ("default", "default-float"):
        file, listed = model_path(name), by_name[name]
        model = onnx.load(file)
        assert listed["opset"] == model.opset_import[0].version
        assert listed["bytes"] == file.stat().st_size and listed["cached"]
        integer = {n.op_type for n in model.graph.node} & {"QLinearConv", "QuantizeLinear"}
        assert listed["precision"] == ("int8" if integer else "float32")


# --- pull and path --------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_pull(main, mirror, home):
    files = [home / "small.onnx", home / "small.tar.gz"]
    for action in ("pull", "path", "pull"):
        assert main("models", action, "small") == (0, f"{files[0]}\n", "")
    assert rows(models())["small"][-1] == "yes"
    assert mirror.ranges("small.onnx") == [None]
    code, out, _ = main("models", "pull", "small", "small", "--with-test-data")
    assert code == 0 and out == "".join(f"{file}\n" for file in files)
    assert all(file.read_bytes() == CONTENT for file in files)
    told = read_document("models pull", invoke("models", "pull", "small", "--json"))
    assert [one["path"] for one in told["files"]] == [str(files[0])]
    assert main("models", "path", "default") == (0, f"{model_path('default')}\n", "")


@pytest.mark.usefixtures("small")
def test_pull_that_fails_says_what_to_do(main, mirror, home):
    mirror.serve(whole(POINTER), name="small.onnx")
    facts = (mirror.host, "Git LFS pointer", home / "small.onnx", SIZE, SHA256)
    assert_failed(main("models", "pull", "small"), *facts)
    assert not (home / "small.onnx").exists()
    mirror.serve(status(503), name="small.onnx")
    assert_failed(main("models", "pull", "small"), "503")


@pytest.mark.usefixtures("small", "home")
def test_pull_of_test_data_that_nobody_has_says_how_to_make_it(main, mirror):
    mirror.serve(status(404), name="small.tar.gz")
    code, out, err = main("models", "pull", "small", "--with-test-data")
    assert (code, out.count("\n")) == (2, 1)
    assert_facts(err, "small.tar.gz", "404", "ssd34 package")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [(["pull", "small", "ssd12"], ["ssd12", "ssd-12"]), (["pull", "small", "default"], ["default"]),
     (["pull", "resnet34-ssd1200", "--with-test-data"], ["test data"]),
     (["path", "ssd-12"], ["ssd34 models pull ssd-12"]), (["path", "README.md"], ["README.md"]),
     (["--json", "path", "small"], ["ssd34 models --json"])],
)  # fmt: skip
@pytest.mark.usefixtures("small")
def test_what_is_not_there_is_not_fetched(main, mirror, arguments, facts):
    assert_failed(main("models", *arguments), *facts)
    assert mirror.requests == []


def test_detect_takes_a_published_name(main, monkeypatch, tiny_model, home, tmp_path):
    """As every command does where a model is asked for."""
    file = PublishedFile("tiny.onnx", tiny_model.stat().st_size, "0" * 64, ())
    entry = PublishedModel(name="tiny", model=file, test_data=None, opset=12, published_map=0.5)
    monkeypatch.setitem(PUBLISHED, "tiny", entry)
    Image.new("RGB", (70, 50)).save(tmp_path / "x.png")
    command = ("detect", tmp_path / "x.png", "--model", "tiny")
    assert_failed(main(*command), "ssd34 models pull tiny", home / "tiny.onnx")
    home.mkdir(parents=True)
    shutil.copy(tiny_model, home / "tiny.onnx")
    code, out, _ = main(*command)
    assert code == 0 and "x.png" in out
