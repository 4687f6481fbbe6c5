"""The SSD loss with hard negative mining. Source: SSD paper section 2.2, training benchmark."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from ssd34.train.examples.matcher import IGNORED

NEGATIVES_PER_POSITIVE = 3


class Loss(NamedTuple):
    """Scalars; `total` carries the gradient."""

    total: Tensor
    box: Tensor
    classification: Tensor


def compute_loss(
    loc: Tensor,
    conf: Tensor,
    *,
    offsets: Tensor,
    labels: Tensor,
    labelled: Tensor | None = None,
    weights: Tensor | None = None,
) -> Loss:
    """The loss of a batch.

    Per picture: smooth L1 over the positives and cross-entropy over the positives and the
    hardest negatives, three per positive, divided by the number of positives. A picture without
    positives counts 0. The result is the mean over the batch.

    Args:
        loc, conf: (N, 4, A) predicted offsets, (N, classes + 1, A) logits.
        offsets: (N, A, 4) the matched boxes' encoded offsets.
        labels: (N, A) int64: class, 0 background, -1 learns nothing.
        labelled: (N, classes + 1) bool: classes that the picture's data set labels. The others
            are left out of the softmax: nothing is learned about them. None: all.
        weights: (N, A) float32: how much the loss of each positive counts. None: 1.
    """
    loc, conf = loc.float(), conf.float()
    if labelled is not None:
        conf = conf.masked_fill(~labelled[:, :, None], float("-inf"))
    positive = labels > 0
    negative = labels == 0
    positives = positive.sum(dim=1)
    taught = positive if weights is None else positive * weights

    offsets = offsets.transpose(1, 2)
    distance = functional.smooth_l1_loss(loc, offsets, reduction="none").sum(dim=1)
    box = (distance * taught).sum(dim=1)

    entropy = functional.cross_entropy(conf, labels.clamp(min=0), reduction="none")
    hard = _hardest(entropy, negative, NEGATIVES_PER_POSITIVE * positives)
    classification = (entropy * (taught.float() + hard)).sum(dim=1)

    share = (positives > 0) / positives.clamp(min=1)
    box, classification = (box * share).mean(), (classification * share).mean()
    return Loss(box + classification, box, classification)


def _hardest(entropy: Tensor, negative: Tensor, counts: Tensor) -> Tensor:
    """(N, A) bool: of each picture's negatives the counts (N,) with the largest entropy (N, A)."""
    hardness = entropy.detach().masked_fill(~negative, IGNORED)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    return negative & (rank < counts[:, None])
