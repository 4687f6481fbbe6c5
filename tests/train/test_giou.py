"""Generalized IoU of encoded boxes, against the boxes themselves."""

import numpy as np
import pytest
import torch

from ssd34.core.box_coder import decode, encode
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.spec import named_spec
from ssd34.train.giou import giou

DEFAULTS = default_boxes_cxcywh(named_spec("ssd300-resnet18"))[::97]


def by_hand(one, other):
    """One pair of boxes xyxy, by the paper's formula."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - width * height
    around = (max(one[2], other[2]) - min(one[0], other[0])) * (
        max(one[3], other[3]) - min(one[1], other[1])
    )
    return width * height / union - (around - union) / around


def encoded(boxes_cxcywh, defaults):
    return torch.from_numpy(encode(boxes_cxcywh, defaults).T[None].copy())


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ((0.5, 0.5, 0.2, 0.4), (0.5, 0.5, 0.2, 0.4), 1.0),
        ((0.5, 0.5, 0.1, 0.4), (0.5, 0.5, 0.2, 0.4), 0.5),
        ((0.25, 0.5, 0.1, 0.1), (0.35, 0.5, 0.1, 0.1), 0.0),  # they touch
        ((0.25, 0.5, 0.1, 0.1), (0.45, 0.5, 0.1, 0.1), -1 / 3),  # one box apart
    ],
)
def test_simple_pairs(found, wanted, expected):
    default = np.array([[0.4, 0.45, 0.3, 0.2]], np.float32)
    one, other = (np.array([box], np.float32) for box in (found, wanted))
    assert giou(encoded(one, default), encoded(other, default)).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_it_is_that_of_the_decoded_boxes_whatever_the_default_boxes():
    rng = np.random.default_rng(0)
    loc, offsets = (rng.normal(0, 3, (2, 4, len(DEFAULTS))).astype(np.float32) for _ in range(2))
    ours = giou(torch.from_numpy(loc), torch.from_numpy(offsets)).numpy()
    for picture in range(2):
        pairs = zip(decode(loc[picture], DEFAULTS).astype(np.float64).tolist(),
                    decode(offsets[picture], DEFAULTS).astype(np.float64).tolist(),
                    strict=True)  # fmt: skip
        expected = [by_hand(one, other) for one, other in pairs]
        np.testing.assert_allclose(ours[picture], expected, atol=2e-4)


def test_its_gradient_is_right_and_stays_finite():
    rng = np.random.default_rng(1)
    loc = torch.tensor(rng.normal(0, 2, (1, 4, 20)), dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor(rng.normal(0, 2, (1, 4, 20)), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: giou(x, offsets), (loc,))
    wild = torch.full((1, 4, 3), 1e4, requires_grad=True)
    value = giou(wild, torch.zeros(1, 4, 3))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert wild.grad is not None
    assert torch.isfinite(wild.grad).all()
