"""`Detector.detect` from JPEG bytes against its bare graph, interleaved in one run.

    python benchmarks/drawn_files.py ssd1200-resnet34 drawn --pictures examples
    python benchmarks/whole_detect.py examples/coffee.jpg default drawn/13-qdq.onnx --threads 2

Weights may be drawn, as accuracy means nothing here.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tables import keep, print_rows

from ssd34 import Detector, read_image
from ssd34.core.preprocess import PREPROCESSINGS
from ssd34.runtime.timing import interleaved, speed_up, summary

BARE = "bare graph"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("models", nargs="+", help="files or names")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[640, 4000],
        help="the picture is recoded as JPEG of these widths, 4:3",
    )  # fmt: skip
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count this process's processor time, for machines that do other work meanwhile; "
        "give --threads 1 with it",
    )  # fmt: skip
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    original = read_image(options.picture)
    jpegs = {width: _jpeg(original, width) for width in options.widths}
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = [
        row
        for model in options.models
        for row in _measured(model, jpegs, options.threads, rounds=options.rounds, clock=clock)
    ]
    print_rows(rows, title="detect against the bare graph")
    keep(options.json, rows, models=options.models, cpu_time=options.cpu_time)


def _jpeg(picture: np.ndarray, width: int) -> bytes:
    """As a camera would give it: 4:3, quality 90, with grain."""
    size = (width, width * 3 // 4)
    large = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(0).normal(0, 4, (*large.shape[:2], 1))
    stream = io.BytesIO()
    Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def _measured(
    model: str,
    jpegs: dict[int, bytes],
    threads: int | None,
    *,
    rounds: int,
    clock: Callable[[], float],
) -> list[dict[str, object]]:
    """Everything with one file takes turns."""
    detectors = {
        name: Detector.load(model, threads=threads, preprocessing=name) for name in PREPROCESSINGS
    }
    some = next(iter(detectors.values()))
    tensor = some.session.input_for(read_image(next(iter(jpegs.values()))))
    timed: dict[str, Callable[[], object]] = {BARE: partial(some.run, tensor)}
    for width, data in jpegs.items():
        for name, detector in detectors.items():
            timed[f"prepare {name} {width}"] = partial(detector.prepare, data)
            timed[f"detect {name} {width}"] = partial(detector.detect, data)
    times = interleaved(timed, rounds=rounds, clock=clock)
    ms = {name: round(summary(values).median, 1) for name, values in times.items()}
    return [
        {
            "file": model,
            "pixels": some.spec.image_size,
            "threads": some.session.threads,
            "JPEG": f"{width} x {width * 3 // 4}",
            "preprocessing": f"`{name}`",
            "JPEG to input, ms": ms[f"prepare {name} {width}"],
            "bare graph, ms": ms[BARE],
            "`detect`, ms": ms[f"detect {name} {width}"],
            "times the bare graph": str(speed_up(times[f"detect {name} {width}"], times[BARE])),
        }
        for width in jpegs
        for name in detectors
    ]


if __name__ == "__main__":
    main()
