"""One step of training: a batch, its loss, its gradient, new weights; and a loss that explodes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssd34.core.preprocess import MEAN, STD
from ssd34.errors import TrainingError
from ssd34.machine import describe_cpu
from ssd34.network.ssd import SSD
from ssd34.text import counted
from ssd34.train.distributed import ALONE, Ranks
from ssd34.train.examples.loader import Batch, lacks_memory
from ssd34.train.loss import compute_loss
from ssd34.train.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step did.

    Attributes:
        pictures: how many it learned from, over all processes.
        loss, box_loss, class_loss: means over these.
        gradient_norm: before it was limited.
    """

    pictures: int
    loss: float
    box_loss: float
    class_loss: float
    gradient_norm: float

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are neither infinite nor NaN."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def train_step(
    network: SSD,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    options: TrainOptions,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Step | None:
    """One step on one batch, in parts if the options say so; None where the batch has no picture to
    learn from, TrainingError where the memory does not hold it.

    The gradient is that of the mean over all pictures of all parts and processes. Where the loss or
    its gradient is not finite the weights are left as they were.
    """
    parts = batch.parts(options.accumulate)
    counts = ranks.total([len(part.images) for part in parts])
    least = count_fewest_pictures(network, options)
    pictures = sum(count for count in counts if count >= least)
    if pictures == 0:
        return None
    with advise_on_memory(network, options, len(parts[0].images), batch.images.shape[1]):
        optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(3, device=device)
        for part, count in zip(parts, counts, strict=True):
            if count >= least:
                losses += _learn(network, part.to(device), pictures, options=options)
        ranks.add_gradients(network.parameters())
        ranks.add(losses)
        limit = options.gradient_clip if options.gradient_clip is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
        total, box, classification, length = torch.cat([losses, norm.reshape(1)]).tolist()
        step = Step(
            pictures=pictures, loss=total, box_loss=box, class_loss=classification,
            gradient_norm=length,
        )  # fmt: skip
        if step.finite:
            optimizer.step()
    return step


@contextmanager
def advise_on_memory(
    network: SSD, options: TrainOptions, pictures: int, side: int
) -> Iterator[None]:
    """Within it a lack of memory for so many pictures at once, of `side` pixels, is a TrainingError
    that says which batch to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        least = 2 * count_fewest_pictures(network, options)
        advice = "use a smaller network or input, or another machine"
        if pictures >= least and options.batch_size >= least * options.accumulate:
            advice = (
                f"add --set accumulate={2 * options.accumulate}, which computes the same batch in "
                f"smaller parts, or try --batch {options.batch_size // 2}"
            )
        raise TrainingError(
            f"out of memory with {counted(pictures, 'picture')} of {side} pixels at once; {advice}"
        ) from None


def count_fewest_pictures(network: SSD, options: TrainOptions) -> int:
    """That a part of a batch can have: batch norm needs two."""
    return 2 if network.spec.head_norm and options.head_statistics == "batch" else 1


def _learn(network: SSD, part: Batch, pictures: int, *, options: TrainOptions) -> Tensor:
    """Add a part's gradient; returns its share (3,) of the batch's loss, box and class loss."""
    with torch.autocast(
        part.images.device.type, torch.bfloat16, enabled=options.precision == "bf16"
    ):
        loc, conf = network(normalise(part.images))
    if len(part.images) == 0:
        # Another process has pictures, and its batch norm waits for this one's part.
        nothing: Tensor = loc.float().sum() + conf.float().sum()
        nothing.backward()  # type: ignore[no-untyped-call]
        return nothing.detach().expand(3)
    loss = compute_loss(
        loc, conf, offsets=part.offsets, labels=part.labels, labelled=part.labelled,
        weights=part.weights if part.weights.numel() else None,
    )  # fmt: skip
    share = len(part.images) / pictures
    (loss.total * share).backward()  # type: ignore[no-untyped-call]
    return torch.stack(loss).detach() * share


def normalise(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 pictures to (N, 3, S, S) float32 input, channels last in memory."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def make_optimizer(network: SSD, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer; unless told otherwise it decays convolution weights and nothing else.

    Each group's ``scale`` is its share of the learning rate.
    """
    backbone = {id(parameter) for parameter in network.backbone.parameters()}
    groups: list[dict[str, Any]] = []
    for in_backbone, scale in ((True, options.backbone_rate), (False, 1.0)):
        part = [p for p in network.parameters() if (id(p) in backbone) == in_backbone]
        for decay in (True, False):
            chosen = [p for p in part if (p.dim() > 1 or options.decayed == "all") == decay]
            groups.append({"params": chosen, "weight_decay": options.decay * decay, "scale": scale})
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.peak_rate, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=options.peak_rate)


def set_training(network: SSD, options: TrainOptions, *, frozen: bool) -> None:
    """Training mode, except for what the options freeze."""
    network.train()
    if options.backbone_statistics == "frozen":
        network.backbone.eval()
    if options.head_statistics == "frozen":
        network.extras.eval()
    for number, stage in enumerate(network.backbone.stages()):
        still = frozen and number < options.frozen_stages
        for module in stage:
            module.requires_grad_(not still)
            if still:
                module.eval()


class AveragedWeights:
    """Exponential moving average of parameters and statistics: `network`, in evaluation mode."""

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


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is arithmetic of the processor, and not emulated, which is slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool((describe_cpu().features or {}).get("bf16"))


SMOOTHING = 0.95
FIRST_STEPS = 20
FACTOR = 10.0
FIRST_FACTOR = 50.0
"""In place of `FACTOR` in the first steps, whose mean is of few batches and says less."""

DOUBT = 3.0
HARMLESS = 5.0
"""A mean loss below this is no explosion; a start from random weights has about 20."""


@dataclass
class LossWatch:
    """Compares the running mean of the loss with the lowest that it was: how many losses were taken
    in, also before a resume, the last of them, their running mean, and the lowest that it was."""

    steps: int = 0
    last: float = 0.0
    mean: float = 0.0
    lowest: float = 0.0

    def find_wrong(self, step: Step) -> str | None:
        """Take a step in; what is wrong with its loss, such as a mean of ten times the lowest."""
        if not step.finite:
            return f"the loss is {step.loss:.3g}, its gradient's norm {step.gradient_norm:.3g}"
        self.steps += 1
        self.last = step.loss
        self.mean += (1 - min(SMOOTHING, 1 - 1 / self.steps)) * (step.loss - self.mean)
        self.lowest = self.mean if self.steps == 1 else min(self.lowest, self.mean)
        factor = FIRST_FACTOR if self.steps < FIRST_STEPS else FACTOR
        if self.mean > max(HARMLESS, factor * self.lowest):
            return f"the loss has grown from {self.lowest:.3g} to {self.mean:.3g}"
        return None

    @property
    def doubtful(self) -> bool:
        """Whether the loss, or its mean, is so high that it may be about to explode."""
        return max(self.last, self.mean) > max(HARMLESS, DOUBT * self.lowest)


def advise(*, rate: float, step: int, saved: int) -> str:
    """What to try where the loss diverged at a learning rate after so many steps; the last
    checkpoint is of the step `saved`, -1: there is none."""
    lower = f"a lower --lr (now {rate:.2g}) or a smaller --set gradient_clip"
    if saved < 0:
        advice = (
            f"there is no checkpoint yet: start again with {lower}, or a longer --set warmup_steps"
        )
    elif saved == step:
        advice = (
            f"the last checkpoint has the very weights that led to it: start again, in another "
            f"folder, with {lower}, or a longer --set warmup_steps"
        )
    else:
        advice = (
            f"the last checkpoint is from before, step {saved}: begin another run with --init "
            f"last.safetensors and {lower}, or start again with a longer --set warmup_steps"
        )
    return f"training diverged; {advice}"
