"""Which engine runs a file faster here, measured, and which way an int8 file is computed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.errors import MissingExtraError, ModelError, OptionError
from ssd34.runtime.engine import (
    AUTO,
    CUDA,
    ENGINES,
    NATIVE,
    ONNXRUNTIME,
    OPENVINO,
    Engine,
    computes_in_int8,
    run_all,
)
from ssd34.runtime.timing import interleaved

FAST = "fast"
EXACT = "exact (no VNNI)"
"""Slower; see `ssd34.runtime.onnxruntime_engine.session_options`."""


@dataclass(frozen=True)
class EngineChoice:
    """The name of the engine chosen, the median milliseconds of one run of each that could run the
    file, and the reason in one sentence."""

    engine: str
    milliseconds: dict[str, float]
    reason: str


def choose_faster_engine(
    first: Engine, path: Path, tensor: NDArray[Any], *, threads: int, streams: int = 1
) -> tuple[Engine, EngineChoice]:
    """The fastest for one file, of a loaded engine and the others that can run it, measured in
    turns on the same input. The answer is not kept: it depends on the threads, the versions and
    what else the machine does. Who has ONNX Runtime for processors is not told of GPUs."""
    from ssd34.runtime.cuda_engine import has_cuda_provider

    engines, refusals = {first.name: first}, []
    for name in ENGINES:
        if name == first.name or (name == CUDA and not has_cuda_provider()):
            continue
        try:
            engine = open_engine(path, name=name, threads=threads, streams=streams)
            run_all(engine, tensor)
        except (MissingExtraError, ModelError) as error:
            refusals.append(str(error))
        else:
            engines[name] = engine
    medians: dict[str, float] = {}
    if len(engines) > 1:
        jobs = {name: partial(run_all, engine, tensor) for name, engine in engines.items()}
        times = interleaved(jobs, rounds=5, warm_up=2)
        medians = {name: float(np.median(values)) for name, values in times.items()}
    best = min(medians, key=medians.__getitem__, default=first.name)
    measured = ", ".join(f"{name} {value:.1f} ms" for name, value in medians.items())
    reason = "; ".join([measured] * bool(measured) + refusals)
    return engines[best], EngineChoice(best, medians, f"engine {best}: {reason}")


def find_int8_way(path: Path, engine: Engine) -> str | None:
    """`FAST` or `EXACT`, as a loaded engine computes an int8 file; None for a file that computes in
    float. A file that does not say how it was quantized counts as one with weights of 8 bits."""
    from ssd34.runtime.onnxruntime_engine import int8_saturates

    if not computes_in_int8(path):
        return None
    if engine.name != ONNXRUNTIME or not int8_saturates():
        return FAST
    try:
        narrow = bool(json.loads(engine.metadata[METADATA_QUANTIZATION])["reduce_range"])
    except (KeyError, TypeError, ValueError):
        narrow = False
    return FAST if narrow else EXACT


def require_engine(name: str) -> None:
    """Refuse with MissingExtraError one of `ENGINES` that can run no file here, before files are
    looked at."""
    if name == OPENVINO:
        from ssd34.runtime.openvino_engine import load_openvino

        load_openvino()
    if name == NATIVE:
        from ssd34.runtime.native.native_engine import require_libraries

        require_libraries()
    if name == CUDA:
        from ssd34.runtime.cuda_engine import require_cuda

        require_cuda()


def open_engine(path: Path, *, name: str, threads: int, streams: int = 1) -> Engine:
    """Load an ONNX file that exists into one of `ENGINES`; `streams` calls of `run`, of so many
    threads each, will be under way at once.

    Raises:
        ModelError: the file is broken, or the engine cannot run it.
        MissingExtraError: the engine is not installed, or has no GPU.
        OptionError: there is no such engine.
    """
    if name == ONNXRUNTIME:
        from ssd34.runtime.onnxruntime_engine import OnnxRuntimeEngine, session_options

        return OnnxRuntimeEngine(path, session_options(threads))
    if name == OPENVINO:
        from ssd34.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(path, threads=threads, streams=streams)
    if name == NATIVE:
        from ssd34.runtime.native.native_engine import NativeEngine

        return NativeEngine(path, threads=threads, streams=streams)
    if name == CUDA:
        from ssd34.runtime.cuda_engine import CudaEngine

        return CudaEngine(path, threads=threads)
    raise OptionError(f"unknown engine {name!r}; expected {', '.join(ENGINES)} or {AUTO}")
