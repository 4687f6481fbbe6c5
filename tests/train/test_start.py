"""What new heads believe before the first step."""

import pytest
import torch

from ssd34.network.ssd import SSD
from ssd34.train.start import Start
from tests.conftest import TINY_LABELS, tiny_spec


def background(network):
    """Each level's probability of background (boxes at a cell,) where features are zero."""
    return [
        conv.bias.view(network.spec.num_channels, -1).softmax(dim=0)[0]
        for conv in network.heads.conf
    ]


@pytest.mark.parametrize("kind", ["random", "detector"])
def test_new_heads_expect_few_objects_under_focal_loss(kind, tiny_checkpoint):
    start = Start("start", detector=tiny_checkpoint if kind == "detector" else None)
    torch.manual_seed(0)
    network, plain = SSD(tiny_spec()), SSD(tiny_spec())
    for level in (*network.heads.conf, *plain.heads.conf):
        torch.nn.init.zeros_(level.bias)
    start.put_into(plain, TINY_LABELS)
    start.put_into(network, TINY_LABELS, class_loss="focal")
    for focal, usual in zip(background(network), background(plain), strict=True):
        if kind == "random":
            torch.testing.assert_close(focal, torch.full_like(focal, 0.99))
            torch.testing.assert_close(usual, torch.full_like(usual, 1 / 4))
        else:
            torch.testing.assert_close(focal, usual)
