"""Latency of detect against the bare network, interleaved in one process, and peak memory.

python benchmarks/detect_latency.py examples/coffee.jpg --threads 2
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

from ssd34 import Detector, read_image
from ssd34.data.atomic import write_text
from ssd34.data.checksum import sha256_of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    started = time.perf_counter()
    detector = Detector.load(options.model, threads=options.threads)
    loading = time.perf_counter() - started
    tensor = detector.session.input_for(read_image(options.picture))
    whole: list[float] = []
    bare: list[float] = []
    for _ in range(3):
        detector.detect(options.picture)
    for _ in range(options.runs):
        started = time.perf_counter()
        detector.detect(options.picture)
        middle = time.perf_counter()
        detector.run(tensor)
        whole.append(1000 * (middle - started))
        bare.append(1000 * (time.perf_counter() - middle))
    result = {
        "model": str(options.model),
        "model_sha256": sha256_of(detector.session.path),
        "spec": detector.spec.name,
        "threads": detector.session.threads,
        "runs": options.runs,
        "load_ms": round(1000 * loading, 1),
        "detect_ms_median": round(statistics.median(whole), 2),
        "network_ms_median": round(statistics.median(bare), 2),
        "ratio_median": round(
            statistics.median(a / b for a, b in zip(whole, bare, strict=True)), 3
        ),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for name, value in result.items():
        print(f"{name:20} {value}")
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
