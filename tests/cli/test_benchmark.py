from __future__ import annotations

import importlib.util
import json
from functools import partial

import pytest
from PIL import Image

from ssd34.benchmark.worker import Worker
from ssd34.errors import ModelError, Ssd34Error
from ssd34.runtime.engine_choice import EXACT
from tests.conftest import EXAMPLES
from tests.support.cli import invoke
from tests.support.refusals import refused

needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


@pytest.fixture
def run(tiny_model):
    return partial(invoke, "benchmark", tiny_model)


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


def test_what_cannot_run_is_left_out_and_named(tiny_model, tmp_path):
    """The second model is then what others are compared with."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    result = invoke(
        "benchmark", broken, tiny_model, "--rounds", 2, "--json", tmp_path / "b.json",
        "--plot", tmp_path / "b.png", code=1,
    )  # fmt: skip
    assert result.stderr.count("warning: ") == 2 and str(broken) in result.stderr.splitlines()[-1]
    values = json.loads((tmp_path / "b.json").read_text())
    (measured,), (left_out,) = values["results"], values["refused"]
    assert measured["model"] == str(tiny_model) and measured["speed_up"]["detect"]["value"] == 1
    assert (left_out["model"], left_out["engine"]) == (str(broken), "onnxruntime")
    assert left_out["reason"] in result.stderr
    with refused(ModelError, broken):
        invoke("benchmark", broken, "--threads", "1,2")


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
    ("arguments", "facts"),
    [(["--threads", "0"], ["1 to 1024"]), (["--threads", "1,,2"], ["1 to 1024"]),
     (["--threads", "two"], ["two"]), (["--engine", "onnxruntime,tensorrt"], ["tensorrt"]),
     (["--images", "no/such"], ["no/such"]), (["--json", "no/such/file.json"], ["no/such"]),
     (["--plot", "b.gif"], ["b.gif", "png, svg, pdf"]),
     (["--plot", "b.png", "--loadgen", "logs"], ["--plot", "LoadGen"]),
     (["--batch", "4"], ["--batch", "--scenario offline"]),
     (["--batch", "4", "--scenario", "offline", "--loadgen", "logs"], ["--batch", "--loadgen"]),
     (["--seconds", "3"], ["--seconds", "--loadgen"]),
     (["--warm-up", "3", "--loadgen", "logs"], ["--warm-up", "--loadgen"]),
     (["no.onnx"], ["no.onnx"])],
)  # fmt: skip
def test_wrong_arguments(run, tmp_path, monkeypatch, arguments, facts):
    monkeypatch.chdir(tmp_path)
    with refused(Ssd34Error, *facts):
        run(*arguments)
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
        with refused(Ssd34Error, arguments[-1]):
            run(*arguments)
    assert (picture.read_bytes(), tiny_model.read_bytes()) == before
