"""Figures of an independent implementation, and the draws that they belong to.

Weights: those of `full_size_chain.py` in benchmarks/.
Inputs: from a generator seeded with 35, in the order of the functions below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd34.core.spec import ModelSpec

FIGURES = json.loads((Path(__file__).parent / "golden_figures.json").read_text())


def assert_golden(array, network: str, name: str, *, atol: float) -> None:
    """Compare an array with its recorded shape, sum and samples."""
    figures = FIGURES[network][name]
    flat = np.asarray(array, np.float64).reshape(-1)
    assert list(np.shape(array)) == figures["shape"]
    np.testing.assert_allclose(flat[figures["at"]], figures["values"], rtol=0, atol=atol)
    assert abs(flat.sum() - figures["sum"]) <= atol * len(flat)
    assert abs(np.abs(flat).sum() - figures["abs_sum"]) <= atol * len(flat)


@dataclass(frozen=True)
class Drawn:
    """What the generator seeded with 35 gives, in order."""

    images: Tensor
    boxes: tuple[Any, ...]
    labels: tuple[Any, ...]
    loss_loc: Tensor | None
    loss_conf: Tensor | None
    decode_loc: Any
    decode_conf: Any


def drawn_inputs(spec: ModelSpec) -> Drawn:
    """Pictures, ground truths (ssd300 only), predictions and decode inputs."""
    generator = torch.Generator().manual_seed(35)
    small = spec.image_size == 300
    side, count = spec.image_size, spec.num_default_boxes
    images = torch.randn(2 if small else 1, 3, side, side, generator=generator)
    boxes, labels, loss_loc, loss_conf = [], [], None, None
    if small:
        for n in (1, 5, 23):
            corner = torch.rand(n, 2, generator=generator) * 0.7
            extent = torch.rand(n, 2, generator=generator) * 0.29 + 0.01
            boxes.append(torch.cat([corner, corner + extent], dim=1).numpy())
            labels.append(torch.randint(1, 81, (n,), generator=generator).numpy())
        loss_loc = torch.randn(3, 4, count, generator=generator)
        loss_conf = torch.randn(3, 81, count, generator=generator)
    decode_loc = torch.randn(1, 4, count, generator=generator) * 0.5
    decode_conf = torch.randn(1, 81, count, generator=generator) * 1.5
    decode_conf[:, 0] += 5
    return Drawn(
        images, tuple(boxes), tuple(labels), loss_loc, loss_conf,
        decode_loc[0].numpy(), decode_conf[0].numpy(),
    )  # fmt: skip
