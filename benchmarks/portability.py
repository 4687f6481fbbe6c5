"""Does int8 arithmetic give the same on a processor without VNNI?

Unsigned bytes times signed bytes are added in pairs at 16 bits on such processors, and saturate:
255 * 127 * 2 is more than 32767. This runs a small int8 convolution here and on an emulated
processor (qemu-x86_64, Debian package qemu-user) and compares both with NumPy's integers, as this
processor may be such a one itself. A model, if one is given, is compared between the two.

    python benchmarks/portability.py
    python benchmarks/portability.py --here
    python benchmarks/portability.py --model int8.onnx --picture examples/chelsea.jpg
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tables import keep

from ssd34 import Detector
from ssd34.core.boxes import pairwise_iou
from ssd34.runtime.onnxruntime_engine import int8_saturates, onnxruntime, session_options

CHANNELS, SIDE = 32, 16
X_SCALE, Y_SCALE = np.float32(0.02), np.float32(0.9973)
"""No sum of the convolution lies half-way between two of the output's steps."""
Y_ZERO = 128


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Int8 on a processor without VNNI.")
    parser.add_argument("--model", help="a model to compare, too")
    parser.add_argument("--picture", type=Path, default=Path("examples/chelsea.jpg"))
    parser.add_argument("--cpu", default="Haswell", help="as qemu-x86_64 -cpu help lists them")
    parser.add_argument("--here", action="store_true", help="only here, without an emulator")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compute", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compute:
        _compute(options.compute, options.model, options.picture)
        return
    emulator = shutil.which("qemu-x86_64")
    if emulator is None and not options.here:
        sys.exit(
            "error: qemu-x86_64 is not installed; on Debian: apt-get install qemu-user; or compare "
            "this processor alone: --here"
        )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for bits in (8, 7):
            onnx.save(small_graph(bits), work / f"{bits}.onnx")
        arguments = [sys.executable, __file__, "--picture", str(options.picture)]
        arguments += ["--model", options.model] if options.model else []
        found = {}
        places: dict[str, list[str]] = {"here": []}
        if emulator and not options.here:
            places["there"] = [emulator, "-cpu", options.cpu]
        for place, prefix in places.items():
            target = work / place
            target.mkdir()
            for graph in work.glob("*.onnx"):
                shutil.copy(graph, target)
            ended = subprocess.run(
                [*prefix, *arguments, "--compute", str(target)], capture_output=True, text=True
            )
            if ended.returncode:
                sys.exit(f"error: {place}: {ended.stderr.strip().splitlines()[-1]}")
            found[place] = dict(np.load(target / "found.npz"))
    if "there" in found:
        found[f"{options.cpu}, emulated"] = found.pop("there")
    rows, detections = compare(found)
    here = "saturates" if int8_saturates() else "does not saturate"
    summary = {"here": f"a processor that {here}", **detections}
    print(json.dumps([*rows, summary], indent=1))
    keep(options.json, rows, models=filter(None, [options.model]), summary=summary)


def small_weights(bits: int) -> tuple[np.ndarray, np.float32]:
    """(32, 32, 3, 3) int8 of so many bits, and their scale."""
    top = 2 ** (bits - 1) - 1
    drawn = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 3, 3))
    weights = np.rint(drawn / np.abs(drawn).max((1, 2, 3), keepdims=True) * top)
    return weights.astype(np.int8), np.float32(1.27 / top)


def small_input() -> np.ndarray:
    """(1, 32, 16, 16) float32, all of the input's 256 steps."""
    values = np.random.default_rng(1).uniform(0, 5.1, (1, CHANNELS, SIDE, SIDE))
    return values.astype(np.float32)


def integer_output(bits: int) -> np.ndarray:
    """(1, 32, 16, 16): what the graph gives in whole numbers, in NumPy."""
    weights, w_scale = small_weights(bits)
    x = np.clip(np.rint(small_input() / X_SCALE), 0, 255)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    # float64 holds these whole numbers exactly.
    sums = np.tensordot(seen.astype(np.float64), weights.astype(np.float64), ((1, 4, 5), (1, 2, 3)))
    steps = np.rint(sums.transpose(0, 3, 1, 2) * (np.float64(X_SCALE) * w_scale / Y_SCALE))
    output: np.ndarray = (np.clip(steps + Y_ZERO, 0, 255) - Y_ZERO) * Y_SCALE
    return output


def small_graph(bits: int) -> onnx.ModelProto:
    """One QLinearConv of unsigned activations with signed weights of so many bits, per channel."""
    weights, w_scale = small_weights(bits)
    constants = {
        "x_scale": X_SCALE,
        "x_zero": np.uint8(0),
        "w": weights,
        "w_scale": np.full(CHANNELS, w_scale, np.float32),
        "w_zero": np.zeros(CHANNELS, np.int8),
        "y_scale": Y_SCALE,
        "y_zero": np.uint8(Y_ZERO),
    }
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
        for name in ("x", "y")
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node(
            "QLinearConv",
            ["x_q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"],
            ["y_q"],
            kernel_shape=[3, 3],
            pads=[1] * 4,
        ),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def _compute(folder: Path, model: str | None, picture: Path) -> None:
    """Everything on this processor, written to found.npz."""
    found: dict[str, Any] = {}
    for bits in (8, 7):
        for name, options in (("onnxruntime", None), ("ours", session_options(1))):
            session = onnxruntime.InferenceSession(
                folder / f"{bits}.onnx", options, providers=["CPUExecutionProvider"]
            )
            (found[f"{bits} {name}"],) = session.run(None, {"x": small_input()})
    if model:
        detections = Detector.load(model, threads=1).detect(picture, score=0.05)
        found |= {
            "boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores
        }  # fmt: skip
    np.savez(folder / "found.npz", **found)


def compare(
    found: dict[str, dict[str, Any]],
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """How far the outputs of each place are from whole numbers', in steps of the output's 256; and
    how many detections are the same."""
    rows = []
    for bits in (8, 7):
        exact = integer_output(bits)
        for name, options in (("onnxruntime", "ONNX Runtime's"), ("ours", "ours")):
            row = {"weights": f"{bits} bits", "options": options}
            for place, outputs in found.items():
                row[place] = _apart(outputs[f"{bits} {name}"], exact)
            rows.append(row)
    both = [outputs for outputs in found.values() if "scores" in outputs]
    return rows, _compared_detections(*both) if len(both) > 1 else {}


def _apart(outputs: np.ndarray, exact: np.ndarray) -> str:
    steps = np.rint(np.abs(outputs - exact) / Y_SCALE)
    if not steps.any():
        return "all equal"
    return f"{(steps > 0).mean():.1%} of the outputs differ, by up to {steps.max():.0f} steps"


def _compared_detections(here: dict[str, Any], there: dict[str, Any]) -> dict[str, float]:
    """Detections of one class that overlap by 0.9 or more, best first, are the same."""
    free = set(range(len(there["scores"])))
    differences = []
    overlaps = pairwise_iou(here["boxes"], there["boxes"])
    for one in range(len(here["scores"])):
        candidates = [k for k in free if there["labels"][k] == here["labels"][one]]
        best = max(candidates, key=lambda k: overlaps[one, k], default=None)
        if best is not None and overlaps[one, best] >= 0.9:
            free.remove(best)
            differences.append(abs(float(here["scores"][one] - there["scores"][best])))
    return {
        "detections here": len(here["scores"]),
        "detections there": len(there["scores"]),
        "the same": len(differences),
        "largest difference of their scores": round(max(differences, default=0.0), 5),
    }


if __name__ == "__main__":
    main()
