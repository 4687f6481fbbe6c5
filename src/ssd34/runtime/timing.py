"""Interleaved timing: models take turns in one run, so that what slows the machine slows all; and
what each node of a graph takes, from the engine's own profile."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.runtime.engine import CUDA, NATIVE, OPENVINO, run_all

SINGLE_STREAM, OFFLINE = "single-stream", "offline"
"""Scenarios: one picture after the other; all there are at once."""

CONFIDENCE, RESAMPLES = 0.95, 2000
"""Of the interval of a speed-up, and of its bootstrap."""

Milliseconds = NDArray[np.float64]
"""(rounds,) float64: how long one model took in each round."""


@dataclass(frozen=True)
class Summary:
    """One model's times, in milliseconds. No percentile is interpolated: with fewer than a hundred
    rounds p99 is the slowest."""

    rounds: int
    median: float
    p90: float
    p99: float
    fastest: float
    slowest: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form, to the microsecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster, with the interval in which that lies at the given confidence."""

    value: float
    low: float
    high: float
    confidence: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved(
    models: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 3,
    progress: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Milliseconds]:
    """Time models in turns: A B C, A B C, ... Round k of one belongs to round k of the others.

    Args:
        models: what runs each model once, by name; the order is that of the turns.
        rounds: how often each model is timed.
        warm_up: rounds before these that are not timed.
        progress: called after each round with the number of rounds done, warm-up included.
        clock: seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    for done in range(1, warm_up + rounds + 1):
        for name, run in models.items():
            started = clock()
            run()
            taken[name].append(1000 * (clock() - started))
        progress(done)
    return {name: np.array(times[warm_up:]) for name, times in taken.items()}


def summary(times: Sequence[float] | Milliseconds) -> Summary:
    """Median and percentiles of one model's times, at least one."""
    values = np.sort(np.asarray(times, np.float64))
    p90, p99 = np.quantile(values, [0.9, 0.99], method="inverted_cdf")
    return Summary(
        rounds=len(values), median=float(np.median(values)), p90=float(p90), p99=float(p99),
        fastest=float(values[0]), slowest=float(values[-1]),
    )  # fmt: skip


def speed_up(
    baseline: Sequence[float] | Milliseconds, model: Sequence[float] | Milliseconds
) -> SpeedUp:
    """The ratio of two models' median times, above 1 where the model is faster, of the same rounds
    of one `interleaved` run.

    The interval is a percentile bootstrap over whole rounds: a round in which the machine was slow
    is drawn for both models or for neither. Equal times give equal intervals.
    """
    before, after = np.asarray(baseline, np.float64), np.asarray(model, np.float64)
    assert before.shape == after.shape and len(before)
    drawn = np.random.default_rng(0).integers(0, len(before), (RESAMPLES, len(before)))
    ratios = np.median(before[drawn], axis=1) / np.median(after[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return SpeedUp(
        value=float(np.median(before) / np.median(after)),
        low=float(low),
        high=float(high),
        confidence=CONFIDENCE,
    )


RUNS = 5

NETWORK = frozenset(
    ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "Convolution", "Relu",
     "Clip", "MaxPool", "NhwcMaxPool", "Pooling", "Add", "QLinearAdd", "QuantizeLinear",
     "DequantizeLinear", "FakeQuantize", "Pad", "Reorder", "ReorderInput", "ReorderOutput")
)  # fmt: skip
"""What networks of this family are made of, in both engines' words. The few small additions of
the tail count as network, too."""


class NodeTime(NamedTuple):
    """One node as the engine ran it: its name, of one of its nodes where the engine merged some,
    its type in the engine's words, for example ``"QLinearConv"``, and the milliseconds of one
    run."""

    name: str
    kind: str
    milliseconds: float


def measure_node_times(
    path: Path, engine: str, tensor: NDArray[Any], *, threads: int
) -> list[NodeTime]:
    """Each node's median time for a file's input, in order of execution; empty where the engine
    gives no times. The file is loaded once more for it, because profiling costs time itself."""
    if engine == CUDA:  # its profile has the times in which nodes were started
        return []
    of_engine = {OPENVINO: _openvino_runs, NATIVE: _native_runs}.get(engine, _onnxruntime_runs)
    runs = of_engine(path, tensor, threads)
    times = np.median([[node.milliseconds for node in run] for run in runs], axis=0)
    return [
        node._replace(milliseconds=float(time)) for node, time in zip(runs[0], times, strict=True)
    ]


def compute_tail_share(nodes: Sequence[NodeTime]) -> float | None:
    """The share of time, 0 to 1, of what is no part of a network, of nodes in order of execution;
    None where there are no times.

    Engines do the softmax before the last convolution if they like, so the order alone does not
    tell. What comes before the first convolution prepares the input and is network.
    """
    total = sum(node.milliseconds for node in nodes)
    first = next((k for k, node in enumerate(nodes) if node.kind in NETWORK), len(nodes))
    tail = sum(node.milliseconds for node in nodes[first:] if node.kind not in NETWORK)
    return tail / total if total > 0 else None


def _onnxruntime_runs(path: Path, tensor: NDArray[Any], threads: int) -> list[list[NodeTime]]:
    from ssd34.runtime.onnxruntime_engine import OnnxRuntimeEngine, session_options

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        engine = OnnxRuntimeEngine(path, options)
        for _ in range(RUNS):
            run_all(engine, tensor)
        events = json.loads(Path(engine.end_profiling()).read_bytes())
    kernels = [e for e in events if e.get("name", "").endswith("_kernel_time")]
    kernels.sort(key=lambda event: event["ts"])
    nodes = [
        NodeTime(
            str(event["name"]).removesuffix("_kernel_time"),
            str(event["args"]["op_name"]),
            event["dur"] / 1000,
        )
        for event in kernels
    ]
    each = len(nodes) // RUNS
    return [nodes[k * each : (k + 1) * each] for k in range(RUNS)]


def _openvino_runs(path: Path, tensor: NDArray[Any], threads: int) -> list[list[NodeTime]]:
    from ssd34.runtime.openvino_engine import OpenVinoEngine

    engine = OpenVinoEngine(path, threads=threads, profiled=True)
    runs = []
    for _ in range(RUNS):
        run_all(engine, tensor)
        runs.append([NodeTime(*node) for node in engine.profile()])
    return runs


def _native_runs(path: Path, tensor: NDArray[Any], threads: int) -> list[list[NodeTime]]:
    """Its three parts; what comes behind the convolutions counts as the tail."""
    from ssd34.runtime.native.native_engine import NativeEngine

    engine = NativeEngine(path, threads=threads)
    names, feed = [port.name for port in engine.outputs], {engine.inputs[0].name: tensor}
    kinds = {"before": "QuantizeLinear", "convolutions": "QLinearConv", "after": "Tail"}
    return [
        [
            NodeTime(name, kind, 1000 * seconds)
            for (name, kind), seconds in zip(
                kinds.items(), engine.run_timed(names, feed)[1], strict=True
            )
        ]
        for _ in range(RUNS)
    ]
