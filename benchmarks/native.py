"""One int8 file in every engine and every level of the native one, interleaved in one run.

    python benchmarks/drawn_files.py ssd1200-resnet34 drawn --pictures examples
    python benchmarks/native.py drawn/13-qdq.onnx --float drawn/float.onnx --threads 1 2

`ssd34 benchmark FILE --engine onnxruntime,openvino,native` gives each its own process and measures
memory, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tables import keep, print_rows

from ssd34.errors import Ssd34Error
from ssd34.machine import describe_cpu
from ssd34.runtime.engine import NATIVE, ONNXRUNTIME, OPENVINO, Engine
from ssd34.runtime.engine_choice import open_engine
from ssd34.runtime.native.levels import available_levels
from ssd34.runtime.native.native_engine import NativeEngine
from ssd34.runtime.timing import interleaved, speed_up, summary
from ssd34.zoo.names import model_path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="an int8 file, or a model's name")
    parser.add_argument("--float", help="the same network in float")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count processor time, for machines that do other work meanwhile; with one thread",
    )  # fmt: skip
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        row
        for threads in options.threads
        for row in _measured(
            options.model,
            options.float,
            threads,
            rounds=options.rounds,
            clock=time.process_time if options.cpu_time else time.perf_counter,
        )
    ]
    print_rows(rows, title=f"{options.model}, {describe_cpu().model}")
    models = filter(None, (options.model, options.float))
    keep(options.json, rows, models=models, cpu_time=options.cpu_time)


def _measured(
    model: str,
    in_float: str | None,
    threads: int,
    *,
    rounds: int,
    clock: Callable[[], float],
) -> list[dict[str, object]]:
    """A row for each engine that can run the file; the ratio is to ONNX Runtime on it."""
    path = model_path(model)
    openers: dict[str, Callable[[], Engine]] = {
        "int8 onnxruntime": partial(open_engine, path, name=ONNXRUNTIME, threads=threads)
    }
    for level in available_levels():
        openers[f"int8 {NATIVE} {level.name}"] = partial(
            NativeEngine, path, threads=threads, level=level.name
        )
    openers["int8 openvino"] = partial(open_engine, path, name=OPENVINO, threads=threads)
    if in_float:
        openers["float onnxruntime"] = partial(
            open_engine, model_path(in_float), name=ONNXRUNTIME, threads=threads
        )
    jobs, seconds = {}, {}
    for name, opener in openers.items():
        started = time.perf_counter()
        try:
            engine = opener()
        except Ssd34Error as error:
            print(f"{name}: {error}")
            continue
        seconds[name] = time.perf_counter() - started
        names = [port.name for port in engine.outputs]
        jobs[name] = partial(engine.run, names, {engine.inputs[0].name: _noise(engine)})
    times = interleaved(jobs, rounds=rounds, warm_up=2, clock=clock)
    base = times["int8 onnxruntime"]
    return [
        {
            "what": name,
            "threads": threads,
            "ms": round(summary(values).median, 1),
            "fastest": round(float(values.min()), 1),
            "to onnxruntime int8": str(speed_up(base, values)),
            "load s": round(seconds[name], 2),
        }
        for name, values in times.items()
    ]


def _noise(engine: Engine) -> np.ndarray:
    """A picture of noise as the file takes it."""
    (port,) = engine.inputs
    shape = [size if isinstance(size, int) else 1 for size in port.shape or ()]
    generator = np.random.default_rng(0)
    if "uint8" in port.type:
        return generator.integers(0, 256, shape).astype(np.uint8)
    return generator.normal(size=shape).astype(np.float32)


if __name__ == "__main__":
    main()
