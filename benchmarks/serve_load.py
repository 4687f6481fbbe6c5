"""A server under load, beside the detector without a server, in one run.

    python benchmarks/serve_load.py examples/coffee.jpg --seconds 10

wrk has to be installed; Debian has it. 1, 8 and 64 clients send one request after the other, 200
pause so that they ask for twice what was reached, and 256 do not pause. Everything runs here:
wrk takes its share of the processors, and so does whatever else runs. The processor time of a
picture tells what the server adds when other programs disturb the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tables import keep

from ssd34.runtime.detector import Detector

WRK_SCRIPT = Path(__file__).with_suffix(".lua")
Row = dict[str, float]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="a JPEG")
    parser.add_argument("--model", default="default")
    parser.add_argument("--instances", default="auto")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed")
    rows: dict[str, Any] = {}
    with serving(options.model, "--instances", options.instances) as (url, process, said):
        print(said, flush=True)
        instances, threads = (int(n) for n in re.findall(r"(\d+) (?:instance|thread)", said)[:2])

        def note(name: str, row: Row) -> Row:
            rows[name] = row
            print(name, row, flush=True)
            return row

        def raw(name: str, instances: int) -> Row:
            return note(name, run_raw(options, instances=instances, threads=threads))

        def load(name: str, clients: int, pause: float = 0) -> Row:
            return note(name, run_wrk(options, url, process, clients=clients, pause=pause))

        raw("raw, one at a time", 1)
        load("1 client", 1)
        before = raw("raw, all instances", instances)
        eight = load("8 clients", 8)
        capacity = load("64 clients", 64)["per_second"]
        after = raw("raw, all instances, again", instances)
        load("twice the capacity", 200, pause=200 / (2 * capacity))
        load("256 clients without a pause", 256)
    mean = (before["per_second"] + after["per_second"]) / 2
    cpu = (before["cpu_ms"] + after["cpu_ms"]) / 2
    summary = {
        "throughput, share of raw": round(eight["per_second"] / mean, 3),
        "server's own processor time, ms": round(eight["cpu_ms"] - cpu, 2),
    }
    print(summary)
    keep(
        options.json,
        [titled(name, row) for name, row in rows.items()],
        models=[options.model],
        said=said,
        summary=summary,
    )


def titled(name: str, row: Row) -> dict[str, object]:
    """A row of the page's table."""
    found: dict[str, object] = {"clients": name, "answers/s": row["per_second"]}
    found |= {f"{p}, ms": row[f"{p}_ms"] for p in ("p50", "p95", "p99")}
    found["processor time a picture, ms"] = row["cpu_ms"]
    return found | ({"503/s": round(row["503"] / row["seconds"], 1)} if row.get("503") else {})


@contextmanager
def serving(model: str, *options: str) -> Iterator[tuple[str, int, str]]:
    """A server in a process of its own: its address, its number, and what it said."""
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
            yield found[1], process.pid, said.strip()
        finally:
            process.terminate()
            process.wait(60)


def run_raw(options: argparse.Namespace, *, instances: int, threads: int) -> Row:
    """The detector without a server: JPEG bytes to detections, in as many threads."""
    data = options.picture.read_bytes()
    detectors = [Detector.load(options.model, threads=threads) for _ in range(instances)]
    for detector in detectors:
        detector.detect(data)

    def work(detector: Detector) -> list[float]:
        times = []
        end = time.perf_counter() + options.seconds
        while (started := time.perf_counter()) < end:
            detector.detect(data)
            times.append(time.perf_counter() - started)
        return times

    cpu = time.process_time()
    with ThreadPoolExecutor(instances) as pool:
        all_times = [*pool.map(work, detectors)]
    cpu = time.process_time() - cpu
    times = 1000 * np.concatenate(all_times)
    return {
        "per_second": round(sum(len(t) / sum(t) for t in all_times), 2),
        "cpu_ms": round(1000 * cpu / len(times), 2),
        **{f"p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95, 99)},
    }


def run_wrk(
    options: argparse.Namespace, url: str, process: int, *, clients: int, pause: float
) -> Row:
    """Clients that send one request after the other, with a pause of so many seconds on average."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{options.seconds:g}s", "--timeout", "60s"]
    command += ["-s", str(WRK_SCRIPT), f"{url}/detect", "--", str(options.picture)]
    command += [str(1000 * pause)] if pause else []
    cpu, done = cpu_seconds(process), pictures_done(url)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu, done = cpu_seconds(process) - cpu, pictures_done(url) - done
    row: Row = json.loads(told.strip().splitlines()[-1])
    return {
        **row,
        "per_second": round(row["200"] / row["seconds"], 2),
        "cpu_ms": round(1000 * cpu / max(1, done), 2),
    }


def pictures_done(url: str) -> float:
    """What the server has worked through, for whomever."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # noqa: S310 - this machine
        found = re.search(r'ssd34_pictures_total{outcome="done"} (\S+)', answer.read().decode())
    return float(found[1]) if found else 0.0


def cpu_seconds(process: int) -> float:
    """What a process has taken, its threads included. Source: proc(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
