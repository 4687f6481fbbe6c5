"""The SSD loss with hard negative mining, and what may take the place of its two parts.

Source: SSD paper section 2.2, training benchmark.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from ssd34.train.giou import giou
from ssd34.train.matcher import IGNORED

NEGATIVES_PER_POSITIVE = 3

BOX_LOSSES = ("smooth-l1", "giou")
"""How the offsets of a positive are judged; the first is the published way."""

CLASS_LOSSES = ("softmax", "focal")
"""What is learned from background: the hardest negatives, as published, or all of it."""

GIOU_WEIGHT = 5.0
"""Brings 1 - GIoU, about 0.4 in the middle of a training, to the size of smooth L1."""

FOCUS = 2.0
OBJECT_WEIGHT = 0.25
"""The focal loss's exponent and the weight of objects; the rest is background's."""


class Loss(NamedTuple):
    """Scalars; `total` carries the gradient."""

    total: Tensor
    box: Tensor
    classification: Tensor


def detection_loss(
    loc: Tensor,
    conf: Tensor,
    *,
    offsets: Tensor,
    labels: Tensor,
    labelled: Tensor | None = None,
    box_loss: str = "smooth-l1",
    class_loss: str = "softmax",
) -> Loss:
    """The loss of a batch.

    Per picture: smooth L1 over the positives and cross-entropy over the positives and the
    hardest negatives, three per positive, divided by the number of positives. A picture without
    positives counts 0. The result is the mean over the batch.

    ``"giou"`` is `GIOU_WEIGHT` * (1 - GIoU) instead of smooth L1; ``"focal"`` the cross-entropy
    over the positives and all negatives, weighted by `focal_weight`.

    Args:
        loc: (N, 4, A) predicted offsets.
        conf: (N, classes + 1, A) predicted logits.
        offsets: (N, A, 4) the matched boxes' encoded offsets.
        labels: (N, A) int64: class, 0 background, -1 learns nothing.
        labelled: (N, classes + 1) bool: classes that the picture's data set labels. The others
            are left out of the softmax: nothing is learned about them. None: all.
        box_loss: one of `BOX_LOSSES`.
        class_loss: one of `CLASS_LOSSES`.
    """
    loc, conf = loc.float(), conf.float()
    if labelled is not None:
        conf = conf.masked_fill(~labelled[:, :, None], float("-inf"))
    positive = labels > 0
    negative = labels == 0
    positives = positive.sum(dim=1)

    offsets = offsets.transpose(1, 2)
    if box_loss == "giou":
        distance = GIOU_WEIGHT * (1 - giou(loc, offsets))
    else:
        distance = functional.smooth_l1_loss(loc, offsets, reduction="none").sum(dim=1)
    box = (distance * positive).sum(dim=1)

    entropy = functional.cross_entropy(conf, labels.clamp(min=0), reduction="none")
    if class_loss == "focal":
        weighted = entropy * focal_weight(entropy, positive)
        classification = (weighted * (positive | negative)).sum(dim=1)
    else:
        hard = _hardest(entropy, negative, NEGATIVES_PER_POSITIVE * positives)
        classification = (entropy * (positive | hard)).sum(dim=1)

    share = (positives > 0) / positives.clamp(min=1)
    box, classification = (box * share).mean(), (classification * share).mean()
    return Loss(box + classification, box, classification)


def _hardest(entropy: Tensor, negative: Tensor, counts: Tensor) -> Tensor:
    """(N, A) bool: of each picture's negatives the counts (N,) with the largest entropy (N, A)."""
    hardness = entropy.detach().masked_fill(~negative, IGNORED)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    return negative & (rank < counts[:, None])


def focal_weight(entropy: Tensor, positive: Tensor) -> Tensor:
    """(1 - p)^2, p being the probability of the right class, times 1/4 for objects and 3/4 for
    background. Source: Lin et al., 2017, here with a softmax.

    Args:
        entropy: (N, A) cross-entropy, -log p.
        positive: (N, A) bool: objects.
    """
    easy = (1 - (-entropy).exp()) ** FOCUS
    return easy * (1 - OBJECT_WEIGHT + (2 * OBJECT_WEIGHT - 1) * positive)
