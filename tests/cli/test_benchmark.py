from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from ssd34.benchmark.worker import Worker
from ssd34.cli import app
from ssd34.errors import Ssd34Error
from ssd34.runtime.engine_choice import EXACT
from tests.conftest import EXAMPLES

needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


@pytest.fixture
def run(tiny_model):
    """Run `ssd34 benchmark` in this process; errors come out as they are raised."""

    def invoke(*arguments, code=0):
        command = ["benchmark", str(tiny_model), *map(str, arguments)]
        result = CliRunner().invoke(app.commands, command, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_everything_of_a_run(run, tiny_raw_model, tmp_path):
    result = run(
        tiny_raw_model, "--threads", "1,2", "--images", EXAMPLES, "--rounds", "2", "--warm-up", "1",
        "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png",
    )  # fmt: skip
    values = json.loads((tmp_path / "b.json").read_text())
    found = [(r["model"].rpartition("/")[2], r["threads"]) for r in values["results"]]
    assert found == [("tiny.onnx", 1), ("tiny.onnx", 2), ("tiny-raw.onnx", 1), ("tiny-raw.onnx", 2)]
    assert "processors may be used" in result.stdout
    for result_values in values["results"]:
        assert f"{result_values['network_ms']['median']:.1f}" in result.stdout
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.format == "PNG" and picture.width > 800
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.png"]


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_what_cannot_run_is_left_out_and_named(tiny_model, tmp_path, scenario):
    """The second model is then what others are compared with."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    command = ["benchmark", str(broken), str(tiny_model), "--rounds", "2", "--scenario", scenario]
    result = CliRunner().invoke(
        app.commands,
        [*command, "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")],
        catch_exceptions=False,
    )
    assert result.exit_code == 1
    assert "cannot run, see below" in result.stdout
    assert result.stderr.endswith(f"warning: not measured at all: {broken}\n")
    assert result.stderr.startswith(f"warning: cannot run: {broken}: not an ONNX file")
    values = json.loads((tmp_path / "b.json").read_text())
    (measured,), (refused,) = values["results"], values["refused"]
    assert measured["model"] == str(tiny_model) and measured["speed_up"]["detect"]["value"] == 1
    assert (refused["model"], refused["engine"]) == (str(broken), "onnxruntime")
    assert f"cannot run: {refused['reason']}\n" in result.stderr


def test_nothing_that_can_run_is_an_error(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(Ssd34Error, match="not an ONNX file"):
        CliRunner().invoke(
            app.commands, ["benchmark", str(broken), "--threads", "1,2"], catch_exceptions=False
        )


def test_offline(run, tmp_path):
    result = run("--scenario", "offline", "--rounds", "1", "--plot", tmp_path / "o.svg")
    assert "images/s" in result.stdout
    assert "<svg" in (tmp_path / "o.svg").read_text()


def test_the_exact_way_of_int8_is_named(run, tmp_path, monkeypatch):
    real = Worker.ask

    def ask(worker, command, **arguments):
        answer = real(worker, command, **arguments)
        return {**answer, "int8": EXACT} if command == "open" else answer

    plain = run("--rounds", "1", "--json", tmp_path / "b.json")
    assert "int8" not in plain.output
    assert json.loads((tmp_path / "b.json").read_text())["results"][0]["int8"] is None
    monkeypatch.setattr(Worker, "ask", ask)
    result = run("--rounds", "1", "--json", tmp_path / "b.json")
    assert "int8: exact (no VNNI)" in result.stdout
    assert "reduce_range: true" in result.stderr
    assert json.loads((tmp_path / "b.json").read_text())["results"][0]["int8"] == EXACT


@needs_loadgen
def test_loadgen(run, tmp_path):
    result = run(
        "--loadgen", tmp_path / "logs" / "new", "--seconds", "0.05", "--rounds", "3",
        "--json", tmp_path / "l.json",
    )  # fmt: skip
    assert "LoadGen says" in result.stdout
    (values,) = json.loads((tmp_path / "l.json").read_text())["results"]
    assert values["loadgen"]["Scenario"] == "SingleStream"
    (logs,) = (tmp_path / "logs" / "new").iterdir()
    assert values["logs"] == str(logs)
    assert {"mlperf_log_summary.txt", "mlperf_log_detail.txt"} <= {p.name for p in logs.iterdir()}


def test_interruption_prints_and_writes_what_there_is(run, tmp_path, monkeypatch):
    real, count = Worker.ask, 0

    def ask(worker, command, **arguments):
        nonlocal count
        count += command == "detect"
        if count > 3:
            raise KeyboardInterrupt
        return real(worker, command, **arguments)

    monkeypatch.setattr(Worker, "ask", ask)
    result = run("--warm-up", "1", "--json", tmp_path / "b.json", code=130)
    assert "interrupted" in result.stderr
    values = json.loads((tmp_path / "b.json").read_text())
    assert values["interrupted"] and values["results"][0]["network_ms"]["rounds"] == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--threads", "0"], "numbers from 1 to 1024"),
        (["--threads", "1,,2"], "numbers from 1 to 1024"),
        (["--threads", "two"], "numbers from 1 to 1024"),
        (["--engine", "onnxruntime,tensorrt"], "unknown engine 'tensorrt'"),
        (["--images", "no/such"], "no such file"),
        (["--json", "no/such/file.json"], "folder that exists"),
        (["--plot", "b.gif"], "png, svg, pdf"),
        (["--plot", "b.png", "--loadgen", "logs"], "leave it out"),
        (["--batch", "4"], "counts in --scenario offline only, not in --scenario single-stream"),
        (["--rate", "3"], "single-stream or offline"),
        (["--bound", "3", "--scenario", "offline"], "--loadgen"),
        (["--batch", "4", "--scenario", "offline", "--loadgen", "logs"], "not in --loadgen"),
        (["--seconds", "3"], "with --loadgen only"),
        (["--warm-up", "3", "--loadgen", "logs"], "--warm-up does not count in --loadgen"),
        (["no.onnx"], "no such model"),
    ],
)
def test_wrong_arguments(run, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Ssd34Error, match=word) as caught:
        run(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_outputs_over_inputs_are_refused(run, tiny_model, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    before = picture.read_bytes(), tiny_model.read_bytes()
    for arguments in (
        ("--json", tiny_model),
        ("--images", picture, "--plot", picture),
        ("--images", tmp_path, "--json", picture),
    ):
        with pytest.raises(Ssd34Error, match="not read here"):
            run(*arguments)
    assert (picture.read_bytes(), tiny_model.read_bytes()) == before


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("matplotlib", ["--plot", "b.png"], "plot"),
        ("openvino", ["--engine", "openvino"], "openvino"),
        ("mlperf_loadgen", ["--loadgen", "logs"], "loadgen"),
    ],
)
def test_missing_extras(run, tmp_path, monkeypatch, package, arguments, extra):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Ssd34Error, match=rf"pip install 'ssd34\[{extra}\]'"):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []
