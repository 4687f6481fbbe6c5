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
from tables import keep, run_command

from ssd34 import named_spec
from ssd34.network.pretrained import map_benchmark_names
from ssd34.network.ssd import SSD

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
        _draw(work / "drawn.pth")
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


def _draw(path: Path) -> None:
    """A checkpoint as the benchmark saves it, with drawn weights, the same as in the tests that
    compare the network with an independent implementation: values keep their size on the way
    through it, which those of an untrained network do not."""
    generator = torch.Generator().manual_seed(34)
    spec = named_spec("ssd1200-resnet34")
    ours = SSD(spec).state_dict()
    state = {
        theirs: _drawn(theirs, ours[name], generator)
        for theirs, name in sorted(map_benchmark_names(spec).items())
    }
    torch.save({"model": state}, path)


def _drawn(key: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return like.clone()
    if leaf == "running_var":
        return torch.rand(like.shape, generator=generator) * 0.5 + 0.75
    if leaf == "weight" and like.dim() == 1:
        return torch.rand(like.shape, generator=generator) * 0.5 + 0.5
    spread = 0.1 if like.dim() == 1 else (2 / like[0].numel()) ** 0.5 * 0.7
    return torch.randn(like.shape, generator=generator) * spread


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
