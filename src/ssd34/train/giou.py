"""Generalized IoU of predicted boxes. Source: Rezatofighi et al., 2019."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd34.core.box_coder import CENTRE_VARIANCE, SIZE_VARIANCE

LARGEST_SCALE = math.log(1000.0)
"""A predicted box is at most 1000 times its default box in each direction: exp stays finite."""


def giou(loc: Tensor, offsets: Tensor) -> Tensor:
    """IoU less the share of the smallest box around both that neither covers, -1..1.

    It does not change when both boxes are moved or stretched together. So both are decoded as if
    their default box were the unit square, and which it is does not matter.

    Args:
        loc: (N, 4, A) predicted offsets.
        offsets: (N, 4, A) the offsets to learn.

    Returns:
        (N, A).
    """
    found, wanted = _corners(loc), _corners(offsets)
    low, high = torch.maximum(found[0], wanted[0]), torch.minimum(found[1], wanted[1])
    around = torch.maximum(found[1], wanted[1]) - torch.minimum(found[0], wanted[0])
    overlap = _area((high - low).clamp(min=0))
    union = _area(found[1] - found[0]) + _area(wanted[1] - wanted[0]) - overlap
    return overlap / union + union / _area(around) - 1


def _corners(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners (N, 2, A), in units of the default box, from its centre."""
    centre = offsets[:, :2] * CENTRE_VARIANCE
    half = (offsets[:, 2:] * SIZE_VARIANCE).clamp(-LARGEST_SCALE, LARGEST_SCALE).exp() / 2
    return centre - half, centre + half


def _area(extent: Tensor) -> Tensor:
    """(N, 2, A) widths and heights to (N, A)."""
    return extent[:, 0] * extent[:, 1]
