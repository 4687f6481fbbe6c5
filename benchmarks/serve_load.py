"""A server under load, beside the detector without a server, in one run.

    python benchmarks/serve_load.py examples/coffee.jpg --seconds 10

wrk (1, 8, 64 clients that send one request after the other) and hey (twice the capacity at a steady
rate) have to be installed; Debian has both. Everything runs on this machine: the load takes its
share of the processors, too.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssd34.runtime.detector import Detector

WRK_SCRIPT = Path(__file__).with_suffix(".lua")
CLIENTS = (1, 8, 64)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="a JPEG")
    parser.add_argument("--model", default="default")
    parser.add_argument("--instances", default="auto")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    missing = [name for name in ("wrk", "hey") if not shutil.which(name)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    with serving(options.model, "--instances", options.instances) as (url, said):
        print(said)
        instances, threads = (int(n) for n in re.findall(r"(\d+) (?:instance|thread)", said)[:2])
        rows: dict[str, Any] = {"said": said}

        def raw(name: str) -> float:
            rows[name] = run_raw(
                options.picture, options.model, instances=instances, threads=threads,
                seconds=options.seconds,
            )  # fmt: skip
            print(name, rows[name])
            return float(rows[name]["pictures_per_second"])

        before = raw("raw detector, before")
        rows["raw detector, one picture at a time"] = run_raw(
            options.picture, options.model, instances=1, threads=threads, seconds=options.seconds
        )
        print("one at a time", rows["raw detector, one picture at a time"])
        for clients in CLIENTS:
            row = run_wrk(url, options.picture, clients=clients, seconds=options.seconds)
            rows[f"{clients} clients"] = row
            print(clients, row)
        after = raw("raw detector, after")
        rows["share_of_raw"] = rows["8 clients"]["200"] / rows["8 clients"]["seconds"] / (
            (before + after) / 2
        )  # fmt: skip
        capacity = rows["64 clients"]["200"] / rows["64 clients"]["seconds"]
        rows["twice the capacity"] = run_hey(
            url, options.picture, rate=2 * capacity, seconds=options.seconds
        )
        rows["256 clients without a pause"] = run_wrk(
            url, options.picture, clients=256, seconds=options.seconds
        )
    print(json.dumps(rows, indent=1))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


@contextmanager
def serving(model: str, *options: str) -> Iterator[tuple[str, str]]:
    """A server in a process of its own: its address, and what it said."""
    command = [sys.executable, "-m", "ssd34", "serve", model, "--port", "0", *options]
    command += ["--log-level", "warning"]
    with tempfile.TemporaryFile("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        try:
            said = ""
            while not (found := re.search(r"(http://[\d.:]+)\n", said)):
                line = process.stdout.readline()
                if not line:
                    raise SystemExit("the server did not start")
                said += line
            yield found[1], said.strip()
        finally:
            process.terminate()
            process.wait(60)


def run_raw(
    picture: Path, model: str, *, instances: int, threads: int, seconds: float
) -> dict[str, float]:
    """The detector without a server: JPEG bytes to detections, in as many threads."""
    data = picture.read_bytes()
    detectors = [Detector.load(model, threads=threads) for _ in range(instances)]

    def work(detector: Detector) -> list[float]:
        detector.detect(data)
        times = []
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            detector.detect(data)
            times.append(time.perf_counter() - started)
        return times

    with ThreadPoolExecutor(instances) as pool:
        all_times = [*pool.map(work, detectors)]
    times = 1000 * np.concatenate(all_times)
    return {
        "pictures_per_second": round(sum(len(t) / sum(t) for t in all_times), 2),
        **{f"p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95, 99)},
    }


def run_wrk(url: str, picture: Path, *, clients: int, seconds: float) -> dict[str, float]:
    """Clients that send one request after the other."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "60s"]
    command += ["-s", str(WRK_SCRIPT), f"{url}/detect", "--", str(picture)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row: dict[str, float] = json.loads(told.strip().splitlines()[-1])
    return {**row, "pictures_per_second": round(row["200"] / row["seconds"], 2)}


def run_hey(url: str, picture: Path, *, rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a steady rate, whatever comes back."""
    workers = 200
    command = ["hey", "-z", f"{seconds:g}s", "-c", str(workers), "-q", f"{rate / workers:.4f}"]
    command += ["-m", "POST", "-T", "image/jpeg", "-D", str(picture), "-t", "60", f"{url}/detect"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    total = re.search(r"Total:\s+([\d.]+) secs", told)
    assert total, told
    statuses = {s: int(n) for s, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", told)}
    return {
        "asked_per_second": round(rate, 2),
        "seconds": float(total[1]),
        "statuses": statuses,
        "goodput": round(statuses.get("200", 0) / float(total[1]), 2),
    }


if __name__ == "__main__":
    main()
