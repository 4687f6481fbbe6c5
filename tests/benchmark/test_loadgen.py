import importlib.util
import json
from functools import partial

import pytest

from ssd34.benchmark.loadgen import parse_summary, run_loadgen
from ssd34.benchmark.run import BenchmarkPlan, benchmark_with_loadgen
from ssd34.errors import ModelError
from ssd34.runtime.detector import Detector
from tests.conftest import EXAMPLES
from tests.support.refusals import refused

needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Samples per second: 1.84509
Result is : INVALID
  Min duration satisfied : Yes
Recommendations:
 * Only processed 5 queries.
QPS w/ loadgen overhead         : 1.05
target_latency (ns): 0
99.90 percentile latency (ns)   : 1000281582

No warnings encountered during test.
"""


def test_summary():
    assert parse_summary(SUMMARY) == {
        "SUT name": "PySUT",
        "Samples per second": 1.84509,
        "Result is": "INVALID",
        "Min duration satisfied": "Yes",
        "Recommendations": "",
        "QPS w/ loadgen overhead": 1.05,
        "target_latency (ns)": 0,
        "99.90 percentile latency (ns)": 1000281582,
    }
    assert parse_summary("") == {}


@pytest.fixture
def detector(tiny_model):
    return Detector.load(tiny_model, threads=1)


@pytest.fixture
def pictures():
    return [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]


@needs_loadgen
def test_single_stream(detector, pictures, tmp_path):
    values = run_loadgen(
        detector, pictures, folder=tmp_path, scenario="single-stream", min_seconds=0.2,
        min_queries=70,
    )  # fmt: skip
    assert values["Scenario"] == "SingleStream" and values["Mode"] == "PerformanceOnly"
    assert values["Result is"] == "VALID"
    assert values["min_duration (ms)"] == 200 and values["min_query_count"] == 70
    assert values["performance_sample_count"] == len(pictures)
    assert 0 < values["Min latency (ns)"] <= values["50.00 percentile latency (ns)"]
    assert values["settings"]["min_queries"] == 70
    json.dumps(values)
    # LoadGen's own log of the run is the witness that every query was answered.
    entries = [
        json.loads(line.removeprefix(":::MLLOG "))
        for line in (tmp_path / "mlperf_log_detail.txt").read_text().splitlines()
        if line.startswith(":::MLLOG ")
    ]
    (count,) = (e["value"] for e in entries if e["key"] == "result_query_count")
    assert count >= 70
    assert (tmp_path / "mlperf_log_summary.txt").exists()


@needs_loadgen
def test_offline(detector, pictures, tmp_path, monkeypatch):
    run = partial(
        run_loadgen, detector, pictures, folder=tmp_path, scenario="offline", min_seconds=0.2,
        min_queries=1, workers=2,
    )  # fmt: skip
    values = run()
    assert values["Scenario"] == "Offline" and values["Result is"] in ("VALID", "INVALID")
    assert values["Samples per second"] > 0
    monkeypatch.setattr("ssd34.benchmark.loadgen.SUMMARY", "unwritten.txt")
    with refused(ModelError, tmp_path, "unwritten.txt"):
        run()


@needs_loadgen
def test_a_detector_that_fails_does_not_hang(detector, pictures, tmp_path, monkeypatch):
    calls = []

    def run(_):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("broken")

    monkeypatch.setattr(detector, "run", run)
    with refused(ModelError, "(broken)"):
        run_loadgen(
            detector, pictures, folder=tmp_path, scenario="single-stream", min_seconds=0.01,
            min_queries=5,
        )  # fmt: skip


@needs_loadgen
def test_a_plan_keeps_what_it_measured_of_the_others(failing_model, tiny_model, tmp_path):
    """One model does not load, one fails in its runs, and before the last the user interrupts."""
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    models = [str(tmp_path / "broken.onnx"), str(tiny_model), str(failing_model), str(tiny_model)]

    def interrupt(number, _):
        if number == 3:
            raise KeyboardInterrupt

    plan = BenchmarkPlan(models=models, rounds=2)
    values = benchmark_with_loadgen(plan, tmp_path, seconds=0.01, progress=interrupt)
    assert values["interrupted"] and [one["model"] for one in values["results"]] == models[1:2]
    assert [one["model"] for one in values["refused"]] == [models[0], models[2]]
    assert all(one["model"] in one["reason"] for one in values["refused"])
    with refused(ModelError, failing_model):
        benchmark_with_loadgen(BenchmarkPlan(models=models[2:3]), tmp_path, seconds=0.01)
