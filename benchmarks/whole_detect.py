"""`Detector.detect` from JPEG bytes against its bare int8 graph, interleaved in one run.

At 300 pixels the embedded network, at 1200 the published one with drawn weights (time only). Both
are quantized here from a single picture, with uint8 and with float32 input.

    python benchmarks/whole_detect.py examples/coffee.jpg --threads 2
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ssd34 import COCO_LABELS, Detector, named_spec, read_image
from ssd34.core.preprocess import PREPROCESSINGS
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.layers import Network, make_network
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.files.atomic import write_text
from ssd34.files.checkpoint import Checkpoint
from ssd34.network.ssd import SSD, copy_arrays
from ssd34.runtime.timing import interleaved, speed_up, summary
from ssd34.zoo.names import model_path

INPUTS = ("uint8", "float32")
BARE = "bare graph"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", choices=(300, 1200), default=[300, 1200])
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
    rows: list[dict[str, object]] = []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            for image_input, path in _int8_files(side, original, Path(folder)).items():
                some = _measured(path, jpegs, options.threads, rounds=options.rounds, clock=clock)
                rows += [{"input": image_input, **row} for row in some]
    _print(rows, unit="ms of processor time" if options.cpu_time else "ms")
    if options.json:
        machine = f"{platform.system()} {platform.machine()}"
        write_text(
            options.json,
            json.dumps({"machine": machine, "cpu_time": options.cpu_time, "rows": rows}, indent=1)
            + "\n",
        )


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


def _int8_files(side: int, picture: np.ndarray, folder: Path) -> dict[str, Path]:
    """One file for each kind of input."""
    network = _drawn() if side == 1200 else read_network(model_path("default-float"))
    statistics = calibrate(network, [picture])
    files = {}
    for image_input in INPUTS:
        files[image_input] = folder / f"{side}-{image_input}.onnx"
        model = quantize_network(network, statistics, QuantizeOptions(), image_input=image_input)
        save_model(model, files[image_input])
    return files


def _drawn() -> Network:
    torch.manual_seed(34)
    spec = named_spec("ssd1200-resnet34")
    return make_network(Checkpoint(spec=spec, labels=COCO_LABELS, weights=copy_arrays(SSD(spec))))


def _measured(
    path: Path,
    jpegs: dict[int, bytes],
    threads: int | None,
    *,
    rounds: int,
    clock: Callable[[], float],
) -> list[dict[str, object]]:
    """Everything with one file takes turns."""
    detectors = {
        name: Detector.load(path, threads=threads, preprocessing=name) for name in PREPROCESSINGS
    }
    some = next(iter(detectors.values()))
    tensor = some.session.input_for(read_image(next(iter(jpegs.values()))))
    timed: dict[tuple[str, int], Callable[[], object]] = {(BARE, 0): partial(some.run, tensor)}
    for width, data in jpegs.items():
        for name, detector in detectors.items():
            timed[name, width] = partial(detector.detect, data)
    names = {key: f"{key[0]} {key[1]}" for key in timed}
    times = interleaved({names[key]: run for key, run in timed.items()}, rounds=rounds, clock=clock)
    bare = times[names[BARE, 0]]
    rows: list[dict[str, object]] = []
    for (name, width), label in names.items():
        if name == BARE:
            continue
        ratio = speed_up(times[label], bare)
        rows.append(
            {
                "side": some.spec.image_size,
                "picture": f"{width} x {width * 3 // 4}",
                "preprocess": name,
                "threads": some.session.threads,
                "bare_ms": round(summary(bare).median, 2),
                "detect_ms": round(summary(times[label]).median, 2),
                "ratio": ratio.to_dict(),
            }
        )
    return rows


def _print(rows: list[dict[str, object]], *, unit: str) -> None:
    columns = ("side", "input", "picture", "preprocess", "threads", "bare_ms", "detect_ms")
    table = Table(
        *columns, "ratio (95 % interval)", title=f"detect against the bare int8 graph, {unit}"
    )
    for row in rows:
        ratio = row["ratio"]
        assert isinstance(ratio, dict)
        interval = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        table.add_row(*(str(row[name]) for name in columns), interval)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
