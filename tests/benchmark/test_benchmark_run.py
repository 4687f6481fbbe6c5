import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ssd34.benchmark.loadgen_run import loadgen_values
from ssd34.benchmark.report import report_values
from ssd34.benchmark.run import Plan, Report, Result, benchmark
from ssd34.benchmark.worker import StageTimes, Worker, draw_picture, measure_stages
from ssd34.core.detections import Detections
from ssd34.core.labels import COCO_LABELS
from ssd34.errors import ImageError, ModelError, OptionError
from ssd34.machine import this_cpu
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES

PICTURES = sorted(EXAMPLES.glob("*.jpg"))


def worker(model, **options):
    given: dict[str, Any] = {"engine": "onnxruntime", "threads": 1, "streams": 1}
    return Worker(str(model), **given | {"pictures": PICTURES} | options)


# --- stages ---------------------------------------------------------------------------------


class Clock:
    """Moves only when it is told to; takes the place of `time` where stages are timed."""

    def __init__(self):
        self.now = 5.0

    def perf_counter(self):
        return self.now

    def during(self, function, seconds):
        """The function, taking so long."""

        def longer(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return longer


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_raw_model"])
def test_stages_are_where_the_time_goes(kind, request, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("ssd34.benchmark.worker.time", clock)
    detector = Detector.load(request.getfixturevalue(kind))
    engine = detector.session.engine
    monkeypatch.setattr(engine, "run", clock.during(engine.run, 0.5))
    monkeypatch.setattr(detector, "prepare", clock.during(detector.prepare, 0.25))
    picked = clock.during(Detections.from_picked, 0.125)
    monkeypatch.setattr("ssd34.runtime.detector.Detections.from_picked", picked)
    stages = measure_stages(detector, PICTURES[0])
    assert stages == StageTimes(preprocess=250, network=500, tail=125)
    assert detector.session.engine is engine


# --- one model in its own process -----------------------------------------------------------


def test_worker(tiny_raw_model):
    with worker(tiny_raw_model, threads=2) as model:
        assert model.facts["spec"] == "tiny" and model.facts["engine"] == "onnxruntime"
        assert len(model.ask("detect", number=-1)) == 3
        assert model.ask("many", first=-3, count=5, workers=2) > 0
        assert model.ask("batches", first=0, count=4, batch=2) > 0
        assert 30e6 < model.ask("memory") < 2e9
        assert 0 <= model.ask("tail_share") < 1
        with pytest.raises(OptionError, match="threads 0"):
            model.ask(
                "open", model="default", engine="onnxruntime", threads=0, streams=1, pictures=[]
            )
        # An error is an answer; the process goes on.
        assert len(model.ask("detect", number=1)) == 3


def test_worker_that_cannot_load(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        worker(tmp_path / "no.onnx")


def test_worker_with_pictures_that_are_none(tiny_model, tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        worker(tiny_model, pictures=[tmp_path / "no.jpg"])
    (tmp_path / "text.jpg").write_text("no picture")
    with (
        worker(tiny_model, pictures=[PICTURES[0], tmp_path / "text.jpg"]) as model,
        pytest.raises(ImageError, match=r"text\.jpg: not a picture"),
    ):
        model.ask("detect", number=1)


def test_worker_that_dies(tiny_model):
    with worker(tiny_model) as model:
        model._process.kill()
        model._process.wait()
        with pytest.raises(ModelError, match="ended with code -9; is there enough memory"):
            model.ask("detect", number=0)


def test_worker_that_ends_by_itself_did_not_lack_memory(tiny_model, capfd):
    with (
        worker(tiny_model) as model,
        pytest.raises(ModelError, match="ended with code 1; its standard error, above, says why"),
    ):
        model.ask("no such command")
    assert "AttributeError" in capfd.readouterr().err


def test_worker_that_hangs_at_its_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("ssd34.benchmark.worker._FAREWELL", 0.1)
    model = Worker.__new__(Worker)
    model._model = "model.onnx"
    model._process = subprocess.Popen(
        [sys.executable, "-c", "import os, time; os.close(1); time.sleep(60)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with model, pytest.raises(ModelError, match=r"model.onnx.*-9"):
        model.ask("memory")


def test_worker_takes_no_modules_from_the_current_folder(tiny_model, tmp_path, monkeypatch):
    for name in ("platform", "queue", "csv"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with worker(tiny_model) as model:
        assert model.facts["spec"] == "tiny"
    assert not (tmp_path / "executed").exists()


def test_fixed_batches_of_another_size(tiny_model):
    with worker(tiny_model) as model, pytest.raises(OptionError, match="takes 1 picture at once"):
        model.ask("batches", first=0, count=2, batch=2)


def test_the_drawn_picture_is_always_the_same():
    pixels = Detector.read(draw_picture())
    assert pixels.shape == (480, 640, 3) and pixels.std() > 30
    assert draw_picture() == draw_picture()


# --- the whole run --------------------------------------------------------------------------


def test_single_stream(tiny_model, tiny_raw_model):
    seen = []
    plan = Plan(
        models=[str(tiny_model), str(tiny_raw_model)], pictures=PICTURES, rounds=4, warm_up=1
    )
    report = benchmark(plan, progress=lambda *step: seen.append(step))
    values = report_values(report)
    json.dumps(values)
    assert ("rounds", 5, 5) in seen
    assert not values["interrupted"] and values["pictures"] == 3
    first, second = values["results"]
    assert first["model_sha256"] != second["model_sha256"]
    for result in (first, second):
        assert result["network_ms"]["rounds"] == 4
        assert all(len(times) == 4 for times in result["rounds"].values())
        assert sum(result["share"].values()) == pytest.approx(1, abs=1e-3)
        assert result["detect_to_network"] > 1 and result["peak_memory_mb"] > 30
    assert first["speed_up"]["network"] == {"value": 1, "low": 1, "high": 1, "confidence": 0.95}
    expected = first["network_ms"]["median"] / second["network_ms"]["median"]
    assert second["speed_up"]["network"]["value"] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("batch", [None, 3])
def test_offline(tiny_raw_model, batch):
    plan = Plan(
        models=[str(tiny_raw_model)], scenario="offline", rounds=2, threads=[2], batch=batch
    )
    (result,) = report_values(benchmark(plan))["results"]
    assert result["pictures_per_round"] == (batch or 8) and result["threads"] == 2
    assert len(result["rounds"]["per_picture_ms"]) == 2 and result["images_per_second"] > 0


def asked(monkeypatch):
    """What workers are asked from now on: command, arguments and answer."""
    real, seen = Worker.ask, []

    def ask(worker, command, **arguments):
        answer = real(worker, command, **arguments)
        seen.append((command, arguments, answer))
        return answer

    monkeypatch.setattr(Worker, "ask", ask)
    return seen


@pytest.mark.parametrize("batch", [None, 4])
def test_all_pictures_of_a_fixed_batch_count(tiny_batch_model, monkeypatch, batch):
    seen = asked(monkeypatch)
    plan = Plan(
        models=[str(tiny_batch_model)], scenario="offline", rounds=2, warm_up=1, threads=[2],
        batch=batch, pictures=PICTURES,
    )  # fmt: skip
    (result,) = report_values(benchmark(plan))["results"]
    rounds = [(arguments, taken) for command, arguments, taken in seen if command == "batches"]
    assert [arguments for arguments, _ in rounds] == [
        {"first": first, "count": 4, "batch": 4} for first in (-4, 0, 4)
    ]
    expected = [taken / 4 for _, taken in rounds[1:]]
    assert result["rounds"]["per_picture_ms"] == pytest.approx(expected, abs=1e-3)
    assert result["images_per_second"] == pytest.approx(2000 / sum(expected), rel=1e-3)
    assert result["batch"] == result["pictures_in_a_run"] == result["pictures_per_round"] == 4
    opened = [arguments for command, arguments, _ in seen if command == "open"][-1]
    assert (opened["threads"], opened["streams"]) == (2, 1), "one run has all threads"


def test_the_batch_of_a_file_is_its_own_in_the_report(tiny_model, tiny_raw_model):
    plan = Plan(models=[str(tiny_model), str(tiny_raw_model)], scenario="offline", rounds=1)
    results = report_values(benchmark(plan))["results"]
    assert [(one["batch"], one["pictures_in_a_run"]) for one in results] == [(1, 1), (None, 1)]


def test_a_fixed_batch_is_not_for_pictures_that_come_alone(tiny_batch_model, tiny_model):
    models = [str(tiny_batch_model), str(tiny_model)]
    report = benchmark(Plan(models=models, rounds=1))
    assert [result.model for result in report.results] == models[1:]
    (refused,) = report.refused
    assert refused.model == models[0]
    assert "takes 4 pictures at once, here they come one by one; export it" in refused.reason
    assert "--batch 1 or dynamic" in refused.reason and "--scenario offline" in refused.reason


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_loadgen_asks_no_file_of_a_fixed_batch(tiny_batch_model, tmp_path, scenario):
    plan = Plan(models=[str(tiny_batch_model)], scenario=scenario)
    with pytest.raises(ModelError, match="4 pictures at once, here they come one by one"):
        loadgen_values(plan, tmp_path, seconds=0.01)


def test_a_batch_that_a_file_does_not_take(tiny_model, tiny_raw_model):
    models = [str(tiny_model), str(tiny_raw_model)]
    report = benchmark(Plan(models=models, scenario="offline", rounds=1, batch=2))
    assert [result.model for result in report.results] == models[1:]
    assert "takes 1 picture at once, not --batch 2; leave" in report.refused[0].reason


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_a_model_that_fails_in_its_runs_is_refused(failing_model, tiny_model, scenario):
    models = [str(failing_model), str(tiny_model)]
    report = benchmark(Plan(models=models, scenario=scenario, rounds=2, warm_up=1))
    assert [result.model for result in report.results] == models[1:]
    (refused,) = report.refused
    assert refused.model == models[0] and "failing.onnx: loaded, but" in refused.reason
    (values,) = report_values(report)["results"]
    assert values["speed_up"]["detect"]["value"] == 1, "what the others are compared with"


def test_only_a_model_that_fails_is_an_error(failing_model):
    with pytest.raises(ModelError, match=r"failing\.onnx: loaded, but"):
        benchmark(Plan(models=[str(failing_model)], rounds=2))


def test_a_model_that_dies_later_loses_nothing_of_the_others(
    tiny_model, tiny_raw_model, monkeypatch
):
    real, count = Worker.ask, 0

    def ask(worker, command, **arguments):
        nonlocal count
        if command == "detect" and worker._model == str(tiny_model):
            count += 1
            if count == 3:
                worker._process.kill()
                worker._process.wait()
        if command == "tail_share":
            raise ModelError("no memory for a second one")
        return real(worker, command, **arguments)

    monkeypatch.setattr(Worker, "ask", ask)
    models = [str(tiny_model), str(tiny_raw_model)]
    values = report_values(benchmark(Plan(models=models, rounds=4, warm_up=1)))
    (result,), (refused,) = values["results"], values["refused"]
    assert result["model"] == models[1] and len(result["rounds"]["network_ms"]) == 4
    assert result["peak_memory_mb"] > 30 and not result["tail_in_file_known"]
    assert refused["model"] == models[0]
    assert refused["reason"].startswith(f"{tiny_model}: its process ended with code -9")


def test_loadgen_keeps_what_it_measured_of_the_others(failing_model, tiny_model, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    plan = Plan(models=[str(tiny_model), str(failing_model)], rounds=2)
    values = loadgen_values(plan, tmp_path, seconds=0.01)
    assert [result["model"] for result in values["results"]] == [str(tiny_model)]
    assert "failing.onnx: loaded, but" in values["refused"][0]["reason"]


def test_a_broken_picture_is_an_error_before_anything_is_measured(
    tiny_model, tmp_path, monkeypatch
):
    """Its header is whole, so only decoding finds it."""
    seen = asked(monkeypatch)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(PICTURES[0].read_bytes()[:9000])
    plan = Plan(models=[str(tiny_model)], rounds=1, warm_up=0, pictures=[PICTURES[0], broken])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        benchmark(plan)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        loadgen_values(plan, tmp_path, seconds=0.01)
    assert seen == []


def test_interruption_keeps_what_was_measured(tiny_model):
    def interrupt(what, done, _):
        if (what, done) == ("rounds", 5):
            raise KeyboardInterrupt

    plan = Plan(models=[str(tiny_model)], rounds=1000, warm_up=1)
    values = report_values(benchmark(plan, progress=interrupt))
    assert values["interrupted"]
    (result,) = values["results"]
    assert len(result["rounds"]["network_ms"]) == 4
    assert result["peak_memory_mb"] is None and not result["tail_in_file_known"]


def test_interruption_before_anything_was_measured(tiny_model):
    def interrupt(what, *_):
        if what == "rounds":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(Plan(models=[str(tiny_model)], warm_up=3), progress=interrupt)


def test_rounds_that_only_some_have_finished_do_not_count():
    facts = {"engine": "onnxruntime"}
    results = [
        Result("a", "onnxruntime", 1, facts, stages=[StageTimes(1, 10, 1)] * 3),
        Result("b", "onnxruntime", 1, facts, stages=[StageTimes(1, 5, 1)] * 2, graph_tail=0.2),
    ]
    values = report_values(Report(Plan(models=["a", "b"]), this_cpu(), results, interrupted=True))
    first, second = values["results"]
    assert len(first["rounds"]["network_ms"]) == len(second["rounds"]["network_ms"]) == 2
    assert second["speed_up"]["network"]["value"] == 2
    assert second["share"] == {
        "preprocess": pytest.approx(1 / 7, abs=1e-4),
        "network": pytest.approx(4 / 7, abs=1e-4),
        "tail": pytest.approx(2 / 7, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scenario": "fast"}, "single-stream, offline"),
        ({"rounds": 0}, "at least one"),
        ({"engines": ()}, "at least one"),
        ({"models": ()}, "at least one"),
    ],
)
def test_wrong_plans(options, word):
    with pytest.raises(OptionError, match=word):
        Plan(**({"models": ["x"]} | options))


# --- batches --------------------------------------------------------------------------------


def test_batch_detects_the_same_as_one_by_one(tiny_raw_model):
    detector = Detector.load(tiny_raw_model)
    assert detector.labels != COCO_LABELS
    together = detector.detect_batch(PICTURES, score=0)
    for found, path in zip(together, PICTURES, strict=True):
        alone = detector.detect(path, score=0)
        assert (found.width, found.height) == (alone.width, alone.height)
        assert len(found) == len(alone) > 10
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    with pytest.raises(OptionError, match="got 0"):
        detector.detect_batch([])
