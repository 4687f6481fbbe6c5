"""A running average of the weights, which detects better than the last step's."""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssd34.network.ssd import SSD


class AveragedWeights:
    """Exponential moving average of a network's parameters and statistics.

    Attributes:
        network: the averaged network, in evaluation mode.
    """

    def __init__(self, network: SSD, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: SSD, *, step: int) -> None:
        """Take a step's weights in; the first steps count more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = [v for v in self.network.state_dict().values() if v.is_floating_point()]
        current = [v for v in network.state_dict().values() if v.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(averaged, current, None)
