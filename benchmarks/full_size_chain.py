"""The published network at full size through the whole chain: time and peak memory of each step.

Weights are drawn, so accuracy means nothing here; shapes, sizes and speed are those of the real
thing.

    python benchmarks/full_size_chain.py examples/coffee.jpg
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from drawn_weights import drawn_benchmark_weights
from tables import keep, run_command

from ssd34 import named_spec

PUBLISHED_BYTES = {10: 80_363_696, 12: 80_366_315}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The published network through the whole chain.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    picture = str(options.picture.resolve())
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        weights = drawn_benchmark_weights(named_spec("ssd1200-resnet34"))
        torch.save({"model": weights}, work / "drawn.pth")
        rows.append(_run(work, "convert", "drawn.pth", "drawn.safetensors"))
        for opset, published in PUBLISHED_BYTES.items():
            name = f"ssd-{opset}.onnx"
            row = _run(work, "export", "drawn.safetensors", name, "--opset", str(opset))
            size = (work / name).stat().st_size
            rows.append(
                {**row, "bytes": size, "of the published file's": round(size / published, 3)}
            )
            package = ("package", name, "--output", "out", "--picture", picture, "--name", "ssd")
            rows.append(_run(work, *package))
            tarball = f"out/ssd-{opset}.tar.gz"
            row = _run(work, "verify", tarball, "--manifest", "out/ONNX_HUB_MANIFEST.json")
            rows.append({**row, "bytes": (work / tarball).stat().st_size})
    for row in rows:
        print(json.dumps(row))
    if options.json:
        keep(options.json, rows)


def _run(work: Path, *arguments: str) -> dict[str, object]:
    """One command in its own process: seconds and peak memory."""
    seconds, usage = run_command(*arguments, cwd=work)
    return {
        "step": " ".join(arguments[:2]),
        "s": round(seconds, 2),
        "most memory, MB": round(usage.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
