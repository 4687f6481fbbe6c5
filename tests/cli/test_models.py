from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing

import onnx
import pytest
from click.testing import CliRunner

from ssd34.cli import app
from ssd34.files.download import PublishedFile
from ssd34.zoo.catalogue import PUBLISHED, PublishedModel
from ssd34.zoo.names import model_path
from tests.support.mirror import CONTENT, POINTER, SHA256, SIZE, Mirror, ranged, status, whole


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "home" / "models"


@pytest.fixture
def mirror():
    with closing(Mirror()) as mirror:
        yield mirror


@pytest.fixture
def small(mirror, monkeypatch):
    """A published model that lies on the local mirror, with test data."""
    model = PublishedFile("small.onnx", SIZE, SHA256, (mirror.serve(ranged(), name="small.onnx"),))
    test_data = PublishedFile(
        "small.tar.gz", SIZE, SHA256, (mirror.serve(whole(), name="small.tar.gz"),)
    )
    entry = PublishedModel(
        name="small", model=model, test_data=test_data, opset=12, precision="float32",
        published_map=0.5,
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "small", entry)
    return entry


@pytest.fixture
def main(monkeypatch, capfd):
    """Run the whole command as its entry point does; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ssd34", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        code = caught.value.code
        out, err = capfd.readouterr()
        return 0 if code is None else code, out, err

    return run


def models(*arguments):
    """Run `ssd34 models` in this process; errors come out as they are raised."""
    result = CliRunner().invoke(app.commands, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}


def failed(result):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# --- list -----------------------------------------------------------------------------------


def test_list_fits_into_100_columns(home):
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


def test_list_says_what_the_numbers_are_worth():
    text = " ".join(models().split())
    assert "sparse COCO ids: nine classes were dropped" in text
    assert "never compare it with numbers by pycocotools" in text


def test_json():
    values = json.loads(models("--json"))
    assert values == json.loads(models("list", "--json"))
    by_name = {model["name"]: model for model in values["models"]}
    assert list(by_name) == ["default", "default-float", *PUBLISHED]
    qdq = by_name["ssd-12-qdq"]
    assert (qdq["bytes"], qdq["precision"], qdq["form"]) == (20479614, "int8", "QDQ")
    assert (qdq["opset"], qdq["published_map"]) == (12, 0.1863)
    assert qdq["path"].startswith(values["cache"]) and not qdq["cached"]
    assert "sparse COCO ids" in qdq["map_caveat"] and by_name["ssd-10"]["map_caveat"] == ""
    assert by_name["default"]["embedded"] and by_name["default"].keys() == qdq.keys()
    assert qdq["test_data"]["bytes"] == 26976158


@pytest.mark.parametrize("name", ["default", "default-float"])
def test_an_embedded_model_is_what_the_list_says(name):
    file = model_path(name)
    model = onnx.load(file)
    (listed,) = (m for m in json.loads(models("--json"))["models"] if m["name"] == name)
    assert listed["opset"] == model.opset_import[0].version
    assert listed["bytes"] == file.stat().st_size and listed["cached"]
    integer = {n.op_type for n in model.graph.node} & {"QLinearConv", "QuantizeLinear"}
    assert listed["precision"] == ("int8" if integer else "float32")


@pytest.mark.usefixtures("small")
def test_json_belongs_to_the_list(main):
    assert "use: ssd34 models --json" in failed(main("models", "--json", "path", "small"))


# --- pull and path --------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_pull(main, mirror, home):
    file = home / "small.onnx"
    assert main("models", "pull", "small") == (0, f"{file}\n", "")
    assert file.read_bytes() == CONTENT
    assert main("models", "path", "small") == (0, f"{file}\n", "")
    assert rows(models())["small"][-1] == "yes"
    assert main("models", "pull", "small") == (0, f"{file}\n", "")
    assert mirror.ranges("small.onnx") == [None]


@pytest.mark.usefixtures("small")
def test_pull_with_test_data(main, home):
    files = [home / "small.onnx", home / "small.tar.gz"]
    code, out, _ = main("models", "pull", "small", "small", "--with-test-data")
    assert code == 0 and out == "".join(f"{file}\n" for file in files)
    assert all(file.read_bytes() == CONTENT for file in files)


@pytest.mark.usefixtures("small")
def test_pull_that_fails_says_what_to_do(main, mirror, home):
    mirror.serve(whole(POINTER), name="small.onnx")
    message = failed(main("models", "pull", "small"))
    assert f"{mirror.host}: sends a Git LFS pointer instead of the file" in message
    assert f"put it at {home / 'small.onnx'} ({SIZE} bytes, SHA-256 {SHA256})" in message
    assert not (home / "small.onnx").exists()
    mirror.serve(status(503), name="small.onnx")
    assert "answers 503 Service Unavailable" in failed(main("models", "pull", "small"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["small", "ssd12"], "ssd12: no such published model; did you mean ssd-12"),
        (["small", "default"], "default: comes with the package"),
        (["resnet34-ssd1200", "--with-test-data"], "no test data is published with it"),
    ],
)
@pytest.mark.usefixtures("small")
def test_pull_of_what_is_not_there_fetches_nothing(main, mirror, names, expected):
    assert expected in failed(main("models", "pull", *names))
    assert mirror.requests == []


def test_path_of_what_is_not_there(main):
    assert "run: ssd34 models pull ssd-12;" in failed(main("models", "path", "ssd-12"))
    assert "no such published model" in failed(main("models", "path", "README.md"))


def test_path_of_the_embedded_model(main):
    code, out, _ = main("models", "path", "default")
    assert code == 0 and out == f"{model_path('default')}\n"


# --- names wherever a model is asked for ----------------------------------------------------


def test_detect_takes_a_published_name(main, monkeypatch, tiny_model, home, tmp_path):
    from PIL import Image

    file = PublishedFile("tiny.onnx", tiny_model.stat().st_size, "0" * 64, ())
    entry = PublishedModel(
        name="tiny", model=file, test_data=None, opset=12, precision="float32", published_map=0.5
    )
    monkeypatch.setitem(PUBLISHED, "tiny", entry)
    Image.new("RGB", (70, 50)).save(tmp_path / "x.png")
    message = failed(main("detect", tmp_path / "x.png", "--model", "tiny"))
    assert f"run: ssd34 models pull tiny; or put tiny.onnx at {home / 'tiny.onnx'}" in message
    home.mkdir(parents=True)
    shutil.copy(tiny_model, home / "tiny.onnx")
    code, out, _ = main("detect", tmp_path / "x.png", "--model", "tiny")
    assert code == 0 and "x.png" in out
