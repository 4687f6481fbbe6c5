import json
import subprocess
import sys
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest

from ssd34.benchmark.report import draw_benchmark, make_report
from ssd34.benchmark.run import (
    BenchmarkPlan,
    BenchmarkReport,
    Result,
    benchmark,
    benchmark_with_loadgen,
)
from ssd34.benchmark.worker import StageTimes, Worker, draw_picture, measure_stages
from ssd34.core.labels import COCO_LABELS
from ssd34.errors import ImageError, ModelError, OptionError
from ssd34.images.read import read_image
from ssd34.machine import describe_cpu
from ssd34.runtime.detector import Detector, PictureDetections
from tests.conftest import EXAMPLES
from tests.support.refusals import assert_facts, refused

PICTURES = sorted(EXAMPLES.glob("*.jpg"))


def worker(model, **options):
    given: dict[str, Any] = {"engine": "onnxruntime", "threads": 1, "streams": 1}
    return closing(Worker(str(model), **given | {"pictures": PICTURES} | options))


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
    picked = clock.during(PictureDetections.from_picked, 0.125)
    monkeypatch.setattr("ssd34.runtime.detector.PictureDetections.from_picked", picked)
    stages = measure_stages(detector, PICTURES[0])
    assert stages == StageTimes(preprocess=250, network=500, tail=125)
    assert detector.session.engine is engine


def test_worker(tiny_raw_model):
    with worker(tiny_raw_model, threads=2) as model:
        assert model.facts["spec"] == "tiny" and model.facts["engine"] == "onnxruntime"
        assert len(model.ask("detect", number=-1)) == 3
        assert model.ask("many", first=-3, count=5, workers=2) > 0
        assert model.ask("batch", first=0, count=2) > 0
        assert 30e6 < model.ask("memory") < 2e9
        assert 0 <= model.ask("tail_share") < 1


def test_worker_that_cannot_load(tiny_model, tmp_path):
    for kind, model, pictures, wrong in (
        (ModelError, tmp_path / "no.onnx", PICTURES, "no.onnx"),
        (ImageError, tiny_model, [tmp_path / "no.jpg"], "no.jpg"),
    ):
        with refused(kind, wrong):
            worker(model, pictures=pictures)


def test_worker_that_dies(tiny_model, capfd):
    with worker(tiny_model) as model:
        model._process.kill()
        model._process.wait()
        with refused(ModelError, "-9", "memory"):
            model.ask("detect", number=0)
    # One that ends by itself did not lack memory.
    with worker(tiny_model) as model, refused(ModelError, "code 1", "standard error"):
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
    with closing(model), refused(ModelError, "model.onnx", "-9"):
        model.ask("memory")


def test_worker_takes_no_modules_from_the_current_folder(tiny_model, tmp_path, monkeypatch):
    for name in ("platform", "queue", "csv"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()\n")
    (tmp_path / "text.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    with worker(tiny_model, pictures=[PICTURES[0], tmp_path / "text.jpg"]) as model:
        assert model.facts["spec"] == "tiny"
        # An error is an answer; the process goes on.
        with refused(ImageError, "text.jpg"):
            model.ask("detect", number=1)
        with refused(OptionError, "1 picture"):
            model.ask("batch", first=0, count=2)
    assert not (tmp_path / "executed").exists()


def test_the_drawn_picture_is_always_the_same():
    pixels = read_image(draw_picture())
    assert pixels.shape == (480, 640, 3) and pixels.std() > 30
    assert draw_picture() == draw_picture()


def test_single_stream(tiny_model, tiny_raw_model):
    seen = []
    models = [str(tiny_model), str(tiny_raw_model)]
    plan = BenchmarkPlan(models=models, pictures=PICTURES, rounds=4, warm_up=1)
    report = benchmark(plan, progress=lambda *step: seen.append(step))
    values = make_report(report)
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
def test_offline(tiny_model, tiny_raw_model, batch):
    """The batch of a file is its own in the report; a batch that a file does not take is named."""
    models = [str(tiny_model), str(tiny_raw_model)]
    report = benchmark(
        BenchmarkPlan(models=models, scenario="offline", rounds=2, threads=[2], batch=batch)
    )
    results = make_report(report)["results"]
    sizes = [(one["batch"], one["pictures_in_a_run"]) for one in results]
    assert sizes == ([(1, 1), (None, 1)] if batch is None else [(None, 3)])
    for result in results:
        assert result["pictures_per_round"] == (batch or 8) and result["threads"] == 2
        assert len(result["rounds"]["per_picture_ms"]) == 2 and result["images_per_second"] > 0
    for refused_model in report.refused:
        assert refused_model.model == models[0]
        assert_facts(refused_model.reason, "1 picture", "--batch 3")
    assert len(report.refused) == (batch is not None)


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
    plan = BenchmarkPlan(
        models=[str(tiny_batch_model)], scenario="offline", rounds=2, warm_up=1, threads=[2],
        batch=batch, pictures=PICTURES,
    )  # fmt: skip
    (result,) = make_report(benchmark(plan))["results"]
    rounds = [(arguments, taken) for command, arguments, taken in seen if command == "batch"]
    assert [arguments for arguments, _ in rounds] == [
        {"first": first, "count": 4} for first in (-4, 0, 4)
    ]
    expected = [taken / 4 for _, taken in rounds[1:]]
    assert result["rounds"]["per_picture_ms"] == pytest.approx(expected, abs=1e-3)
    assert result["images_per_second"] == pytest.approx(2000 / sum(expected), rel=1e-3)
    assert result["batch"] == result["pictures_in_a_run"] == result["pictures_per_round"] == 4
    opened = [arguments for command, arguments, _ in seen if command == "open"][-1]
    assert (opened["threads"], opened["streams"]) == (2, 1), "one run has all threads"


def test_a_fixed_batch_is_not_for_pictures_that_come_alone(tiny_batch_model, tiny_model, tmp_path):
    models = [str(tiny_batch_model), str(tiny_model)]
    report = benchmark(BenchmarkPlan(models=models, rounds=1))
    assert [result.model for result in report.results] == models[1:]
    (left_out,) = report.refused
    assert left_out.model == models[0]
    assert_facts(left_out.reason, "4 pictures", "--batch 1", "--scenario offline")
    for scenario in ("single-stream", "offline"):
        with refused(ModelError, "4 pictures"):
            benchmark_with_loadgen(
                BenchmarkPlan(models=models[:1], scenario=scenario), tmp_path, seconds=0.01
            )


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_a_model_that_fails_in_its_runs_is_refused(failing_model, tiny_model, scenario):
    models = [str(failing_model), str(tiny_model)]
    report = benchmark(BenchmarkPlan(models=models, scenario=scenario, rounds=2, warm_up=1))
    assert [result.model for result in report.results] == models[1:]
    (left_out,) = report.refused
    assert left_out.model == models[0] and models[0] in left_out.reason
    (values,) = make_report(report)["results"]
    assert values["speed_up"]["detect"]["value"] == 1, "what the others are compared with"
    with refused(ModelError, failing_model):
        benchmark(BenchmarkPlan(models=models[:1], scenario=scenario, rounds=2))


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
    values = make_report(benchmark(BenchmarkPlan(models=models, rounds=4, warm_up=1)))
    (result,), (left_out,) = values["results"], values["refused"]
    assert result["model"] == models[1] and len(result["rounds"]["network_ms"]) == 4
    assert result["peak_memory_mb"] > 30 and not result["tail_in_file_known"]
    assert left_out["model"] == models[0]
    assert_facts(left_out["reason"], tiny_model, "-9")


def test_a_broken_picture_is_an_error_before_anything_is_measured(
    tiny_model, tmp_path, monkeypatch
):
    """Its header is whole, so only decoding finds it."""
    seen = asked(monkeypatch)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(PICTURES[0].read_bytes()[:9000])
    plan = BenchmarkPlan(
        models=[str(tiny_model)], rounds=1, warm_up=0, pictures=[PICTURES[0], broken]
    )
    for measure in (benchmark, partial(benchmark_with_loadgen, folder=tmp_path, seconds=0.01)):
        with refused(ImageError, broken):
            measure(plan)
    assert seen == []


def test_interruption_keeps_what_was_measured(tiny_model):
    def interrupt_at(number):
        def interrupt(what, done, _):
            if (what, done) == ("rounds", number):
                raise KeyboardInterrupt

        return benchmark(
            BenchmarkPlan(models=[str(tiny_model)], rounds=9, warm_up=1), progress=interrupt
        )

    values = make_report(interrupt_at(5))
    assert values["interrupted"]
    (result,) = values["results"]
    assert len(result["rounds"]["network_ms"]) == 4
    assert result["peak_memory_mb"] is None and not result["tail_in_file_known"]
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(1)


def test_rounds_that_only_some_have_finished_do_not_count(tmp_path):
    facts = {"engine": "onnxruntime"}
    results = [
        Result(r"$\frac{1$", "onnxruntime", 1, facts, stages=[StageTimes(1, 10, 1)] * 3),
        Result("犬", "onnxruntime", 1, facts, stages=[StageTimes(1, 5, 1)] * 2, graph_tail=0.2),
    ]
    values = make_report(
        BenchmarkReport(BenchmarkPlan(models=["a", "b"]), describe_cpu(), results, interrupted=True)
    )
    first, second = values["results"]
    assert len(first["rounds"]["network_ms"]) == len(second["rounds"]["network_ms"]) == 2
    assert second["speed_up"]["network"]["value"] == 2
    shares = {"preprocess": 1 / 7, "network": 4 / 7, "tail": 2 / 7}
    assert second["share"] == pytest.approx(shares, abs=1e-4)
    draw_benchmark(values, tmp_path / "b.png", form="png")  # files may be called so


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"scenario": "fast"}, "fast"), ({"rounds": 0}, ""), ({"engines": ()}, ""),
     ({"models": ()}, "")],
)  # fmt: skip
def test_wrong_plans(options, fact):
    with refused(OptionError, fact):
        BenchmarkPlan(**({"models": ["x"]} | options))


def test_batch_detects_the_same_as_one_by_one(tiny_raw_model):
    detector = Detector.load(tiny_raw_model)
    assert detector.labels != COCO_LABELS
    together = detector.detect_batch(iter(PICTURES), score=0)
    for found, path in zip(together, PICTURES, strict=True):
        alone = detector.detect(path, score=0)
        assert (found.width, found.height) == (alone.width, alone.height)
        assert len(found) == len(alone) > 10
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    assert len(detector.detect_batch(np.zeros((2, 9, 9, 3), np.uint8))) == 2
    with refused(OptionError, "0"):
        detector.detect_batch([])
