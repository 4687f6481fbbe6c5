"""The published network at full size through the whole chain: time and peak memory of each step.

Weights are drawn, so accuracy means nothing here; shapes, sizes and speed are those of the real
thing.

    python benchmarks/full_size_chain.py examples/coffee.jpg
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

import torch
from tables import keep, run_command
from torch import Tensor

from ssd34.core.spec import ModelSpec, named_spec
from ssd34.network.ssd import SSD

PUBLISHED_BYTES = {10: 80_363_696, 12: 80_366_315}

_BACKBONE = {
    "backbone.conv1.": "model.layer1.0.",
    "backbone.bn1.": "model.layer1.1.",
    "backbone.layer1.": "model.layer1.4.",
    "backbone.layer2.": "model.layer1.5.",
    "backbone.layer3.": "model.layer2.0.",
}


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
    keep(options.json, rows)


def drawn_benchmark_weights(spec: ModelSpec) -> dict[str, Tensor]:
    """A checkpoint as the benchmark's authors save it, over its sorted keys, from a generator that
    is seeded with 34; for the tests, too. Values keep their size on the way through the network,
    which those of an untrained one do not."""
    generator = torch.Generator().manual_seed(34)
    named = {_benchmark_name(ours): like for ours, like in SSD(spec).state_dict().items()}
    return {key: _drawn(key, named[key], generator) for key in sorted(named)}


def _benchmark_name(ours: str) -> str:
    for prefix, theirs in _BACKBONE.items():
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    if found := re.fullmatch(r"extras\.(\d)\.conv([12])\.(weight|bias)", ours):
        return f"additional_blocks.{found[1]}.{2 * int(found[2]) - 2}.{found[3]}"
    return ours.removeprefix("heads.")


def _drawn(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
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
    used = run_command(*arguments, cwd=work)
    return {
        "step": " ".join(arguments[:2]),
        "s": round(used.seconds, 2),
        "most memory, MB": used.memory,
    }


if __name__ == "__main__":
    main()
