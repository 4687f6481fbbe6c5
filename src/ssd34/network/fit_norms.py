"""Statistics again for batch norm that was folded into the convolutions.

An exported file gives each normalisation back as one that only adds the folded bias
(`ssd34.network.from_onnx`). Here pictures say what mean and variance its input has. With these, and
a weight and bias that undo them, it computes the same as before and can train with a batch's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ssd34.network.from_onnx import has_unfolded_norm
from ssd34.network.ssd import SSD


class _Measuring(nn.BatchNorm2d):
    """Takes a folded normalisation's place, computes the same and notes what it is given.

    Always in training mode: the convolution in front of it is then computed by itself.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps)
        self.bias_only = norm.bias
        self.count = 0
        self.sums = torch.zeros(2, norm.num_features, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same plus the bias."""
        values = x.double()
        self.count += x.numel() // x.shape[1]
        self.sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        return x + self.bias_only[:, None, None]

    def fit(self, norm: nn.BatchNorm2d) -> None:
        """Give the normalisation the statistics of what was noted, and what undoes them."""
        assert norm.running_mean is not None and norm.running_var is not None
        mean, square = self.sums / self.count
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((square - mean.square()).clamp(min=0))
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.add_(norm.running_mean)


@torch.no_grad()
def fit_norms(network: SSD, parts: Sequence[str], batches: Iterable[Tensor]) -> int:
    """Fit the normalisations that have lost their statistics, in place.

    Args:
        network: on the CPU.
        parts: what the names of those begin with that are fitted, such as ``"extras."``.
        batches: (N, 3, S, S) normalised pictures of the network's full size.

    Returns:
        How many were fitted. The network computes what it did, but for rounding.
    """
    folded: dict[str, nn.BatchNorm2d] = {}
    for name, norm in network.named_modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            variance = {f"{name}.running_var": norm.running_var.numpy()}
            if name.startswith(tuple(parts)) and has_unfolded_norm(variance, name):
                folded[name] = norm
    if not folded:
        return 0
    was = network.training
    network.eval()
    measuring = {name: _Measuring(norm) for name, norm in folded.items()}
    for name, module in measuring.items():
        network.set_submodule(name, module)
    try:
        for images in batches:
            network(images)
    finally:
        for name, norm in folded.items():
            network.set_submodule(name, norm)
        network.train(was)
    seen = {name: module for name, module in measuring.items() if module.count}
    for name, module in seen.items():
        module.fit(folded[name])
    return len(seen)
