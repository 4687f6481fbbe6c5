"""What each node of a graph takes, from the engine's own profile."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.runtime.engine import OPENVINO, Engine

RUNS = 5


class NodeTime(NamedTuple):
    """One node as the engine ran it.

    Attributes:
        name: the engine's; where it merged nodes, one of theirs, often with something added.
        kind: its type in the engine's words, for example ``"QLinearConv"``.
        milliseconds: of one run.
    """

    name: str
    kind: str
    milliseconds: float


def node_times(path: Path, engine: str, tensor: NDArray[Any], *, threads: int) -> list[NodeTime]:
    """Each node's median time, in order of execution; empty where the engine gives no times.

    The file is loaded once more for it, because profiling costs time itself.

    Args:
        path: an ONNX file.
        engine: that runs it.
        tensor: its input.
        threads: that one run uses.
    """
    runs = (_openvino_runs if engine == OPENVINO else _onnxruntime_runs)(path, tensor, threads)
    times = np.median([[node.milliseconds for node in run] for run in runs], axis=0)
    return [
        node._replace(milliseconds=float(time)) for node, time in zip(runs[0], times, strict=True)
    ]


def _onnxruntime_runs(path: Path, tensor: NDArray[Any], threads: int) -> list[list[NodeTime]]:
    from ssd34.runtime.onnxruntime_engine import OnnxRuntimeEngine, session_options

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        engine = OnnxRuntimeEngine(path, threads=threads, options=options)
        for _ in range(RUNS):
            _run(engine, tensor)
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
        _run(engine, tensor)
        runs.append([NodeTime(*node) for node in engine.profile()])
    return runs


def _run(engine: Engine, tensor: NDArray[Any]) -> None:
    engine.run([port.name for port in engine.outputs], {engine.inputs[0].name: tensor})
