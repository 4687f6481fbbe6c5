"""What each node of a graph takes, and the NMS in the file, from the engine's own profile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.runtime.engine import CUDA, NATIVE, OPENVINO, run_all

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
        engine = OnnxRuntimeEngine(path, threads=threads, options=options)
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
