"""MLCommons LoadGen drives a detector: the harness that the published network was made for. It
decides when which pictures are asked for, and writes its own logs; here is what answers it, and
what reads its summary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssd34.errors import ModelError, require
from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from ssd34.runtime.timing import OFFLINE, interleaved
from ssd34.text import counted

SUMMARY = "mlperf_log_summary.txt"
MAX_TENSOR_BYTES = 512 * 2**20
"""Most memory for the pictures that LoadGen asks to be loaded before it starts its clock."""

_LINE = re.compile(r"^\s*(?P<name>[^:=]+?)\s*(?::|=)\s*(?P<value>.*?)\s*$")


def run_loadgen(
    detector: Detector, pictures: Sequence[bytes], *, folder: Path, scenario: str,
    min_seconds: float, min_queries: int, workers: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Run LoadGen once on encoded pictures: its summary, see `parse_summary`, and under "settings"
    what it was asked for.

    As in its benchmark, pictures are decoded and normalised before the clock starts; the network
    and the policy are timed. The benchmark's rules ask for 600 s and 1024 queries.

    Args:
        folder: exists; takes LoadGen's logs.
        scenario: one of `ssd34.benchmark.run.SCENARIOS`.
        min_seconds: shortest run.
        min_queries: fewest queries, of one picture each when single-stream.
        workers: offline: pictures looked at at the same time.

    Raises:
        MissingExtraError: LoadGen is not installed.
        ModelError: a picture could not be answered, or LoadGen wrote no summary.
    """
    loadgen = require("mlperf_loadgen", extra="loadgen", why="--loadgen")
    settings = loadgen.TestSettings()
    kinds = loadgen.TestScenario
    offline = scenario == OFFLINE
    settings.scenario = kinds.Offline if offline else kinds.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * min_seconds)
    settings.min_query_count = min_queries
    tensors = _Tensors(detector, pictures)
    latency = _typical_seconds(detector, tensors)
    settings.single_stream_expected_latency_ns = round(1e9 * latency)
    # How many pictures the one query of the offline scenario gets follows from this.
    settings.offline_expected_qps = workers / latency

    outputs = loadgen.LogOutputSettings()
    outputs.outdir = str(folder)
    outputs.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = outputs
    logs.enable_trace = False

    failures: list[Exception] = []
    with ThreadPoolExecutor(workers) as pool:

        def answer(sample: Any) -> None:
            try:
                detector.run(tensors[sample.index])
            except Exception as error:  # LoadGen waits for ever for an answer that does not come
                failures.append(error)
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])

        def issue(samples: list[Any]) -> None:
            if offline:
                for sample in samples:
                    pool.submit(answer, sample)
            else:
                answer(samples[0])

        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(
            len(pictures), tensors.most_at_once, tensors.load, tensors.unload
        )
        try:
            # An audit file would change the settings; there is none in our folder.
            loadgen.StartTestWithLogSettings(
                system, library, settings, logs, str(folder / "audit.config")
            )
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
    if failures:
        raise ModelError(
            f"LoadGen: {counted(len(failures), 'picture')} without an answer ({failures[0]})"
        )
    try:
        text = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise ModelError(f"{folder}: LoadGen wrote no {SUMMARY}; is the disk full?") from None
    asked = {"scenario": scenario, "min_seconds": min_seconds, "min_queries": min_queries}
    return {"settings": {**asked, "workers": workers}, **parse_summary(text)}


def parse_summary(text: str) -> dict[str, Any]:
    """The lines "name : value" of LoadGen's summary, numbers as numbers, durations in the unit
    that the name says."""
    values: dict[str, Any] = {}
    for line in text.splitlines():
        if found := _LINE.match(line):
            values[found["name"]] = _number(found["value"])
    return values


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


class _Tensors:
    """LoadGen's sample library: pictures as the network's input, loaded when it says so."""

    def __init__(self, detector: Detector, pictures: Sequence[bytes]) -> None:
        self._detector, self._pictures = detector, pictures
        self._loaded: dict[int, NDArray[Any]] = {}
        self.most_at_once = max(1, min(len(pictures), MAX_TENSOR_BYTES // self[0].nbytes))

    def __getitem__(self, index: int) -> NDArray[Any]:
        if index in self._loaded:
            return self._loaded[index]
        return self._detector.session.input_for(read_image(self._pictures[index]))

    def load(self, indices: list[int]) -> None:
        for index in indices:
            self._loaded[index] = self[index]

    def unload(self, indices: list[int]) -> None:
        for index in indices:
            del self._loaded[index]


def _typical_seconds(detector: Detector, tensors: _Tensors) -> float:
    """The faster of two runs."""
    tensor = tensors[0]
    times = interleaved({"": lambda: detector.run(tensor)}, rounds=2, warm_up=0)
    return float(times[""].min()) / 1000
