"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, Picked, postprocess
from ssd34.core.preprocess import MEAN, STD, preprocess
from ssd34.data.dataset import Dataset, Problem
from ssd34.errors import DatasetError, OptionError, TrainingError
from ssd34.evaluate.coco_metrics import CocoMetrics, categories_of
from ssd34.evaluate.evaluator import Stages, evaluate
from ssd34.network.ssd import SSD
from ssd34.train.ema import AveragedWeights
from ssd34.train.loader import Batch, Loader, TrainingSet
from ssd34.train.loss import Loss, detection_loss
from ssd34.train.options import TrainOptions
from ssd34.train.run import BEST, LAST, Run
from ssd34.train.schedule import Schedule

LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands after a step. Times in seconds."""

    step: int
    batches_per_epoch: int
    share: float
    elapsed: float
    remaining: float
    image_size: int
    learning_rate: float
    loss: float
    box_loss: float
    class_loss: float
    images_per_second: float
    data_wait: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: where the weights are and what they reach on the validation set."""

    last: Path
    best: Path
    best_ap: float
    steps: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What a caller wants to hear of a run; libraries do not print."""

    progress: Callable[[Progress], None] = lambda _: None
    evaluating: Callable[[int, int], None] = lambda _done, _total: None
    evaluated: Callable[[int, CocoMetrics], None] = lambda _epoch, _metrics: None
    problem: Callable[[Problem], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False


def train(
    network: SSD,
    labels: LabelSet,
    *,
    sources: Sequence[TrainingSet],
    validation: Dataset,
    options: TrainOptions,
    output: Path,
    resume: bool = False,
    device: torch.device | None = None,
    notes: dict[str, Any] | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Train a network in place; evaluate and save after each epoch.

    Args:
        network: the start.
        labels: its classes.
        sources: what to learn from.
        validation: what to measure on after each epoch.
        options: the settings.
        output: an existing folder for ``last.safetensors``, ``best.safetensors`` and
            ``history.jsonl``.
        resume: go on from ``last.safetensors``. With a length in epochs the result is the same
            as without the interruption; with minutes the clock decides.
        device: None: the CPU.
        notes: kept in the checkpoints, such as where the first weights came from.
        listener: hears of progress; its ``stop`` ends the run after a step, resumable.

    Raises:
        DatasetError: nothing to measure on.
        TrainingError: the loss is not finite any more, no picture can be read, or there is
            nothing to resume.
    """
    listener = listener or Listener()
    device = device or torch.device("cpu")
    _check_before(network, labels, validation, options)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, options)
    averaged = AveragedWeights(network, decay=options.ema_decay)
    loader = Loader(
        sources,
        spec=network.spec,
        options=options.augmentation,
        batch_size=options.batch_size,
        seed=options.seed,
        workers=options.workers,
        size_now=lambda step: options.size_at(run.share(step), network.spec.image_size),
        pinned=device.type == "cuda",
    )
    run = Run(
        network,
        labels,
        optimizer,
        averaged,
        options=options,
        output=output,
        notes=notes or {},
        batches_per_epoch=loader.batches_per_epoch,
    )
    run.restore() if resume else run.start_history()
    schedule = Schedule(
        peak=options.peak_rate, warmup_steps=options.warmup_steps, kind=options.schedule
    )
    batches = loader.batches(run.step)
    speed = _Speed()
    saved_at = run.elapsed()
    usable = 0
    share = run.share(run.step)
    if run.step and run.step % run.batches_per_epoch == 0 and run.evaluated != run.step:
        _evaluate(run, validation, device, listener)  # it was interrupted
    while share < 1 and not listener.stop():
        waited = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - waited
        for problem in batch.problems:
            if run.first_report(problem):
                listener.problem(problem)

        rate = schedule.rate(step=run.step, progress=share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        set_training(network, options, frozen=share < options.frozen_share)
        # Batch norm needs two pictures.
        if len(batch.images) > int(network.spec.head_norm):
            loss = train_step(network, optimizer, batch, options=options, device=device)
            averaged.update(network, step=run.step)
            speed.add(len(batch.images), loss, waited)
            usable += len(batch.images)
        run.step += 1
        share = run.share(run.step)

        end_of_epoch = run.step % run.batches_per_epoch == 0
        if run.step % LOG_EVERY == 0 or end_of_epoch:
            progress = speed.report(run, share, rate, batch)
            listener.progress(progress)
            run.log({"event": "step", **dataclasses.asdict(progress)})
        if end_of_epoch:
            if usable == 0:
                first = f"; the first: {batch.problems[0]}" if batch.problems else ""
                raise TrainingError(f"no picture could be read in a whole epoch{first}")
            usable = 0
        if end_of_epoch or share >= 1 or run.elapsed() - saved_at > 60 * options.checkpoint_minutes:
            with run.clock_stopped():
                run.save(LAST, training=True)
            saved_at = run.elapsed()
        if end_of_epoch or share >= 1:
            _evaluate(run, validation, device, listener)
            speed.restart()
    if share >= 1 and run.evaluated != run.step:
        _evaluate(run, validation, device, listener)
    run.save(LAST, training=True)
    return Outcome(
        last=output / LAST,
        best=output / BEST,
        best_ap=run.best_ap,
        steps=run.step,
        finished=share >= 1,
    )


def train_step(
    network: SSD,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    options: TrainOptions,
    device: torch.device,
) -> Loss:
    """One step on one batch.

    Raises:
        TrainingError: the loss or its gradient is not finite; the weights are left as they were.
    """
    batch = batch.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        loc, conf = network(normalised(batch.images))
    loss = detection_loss(
        loc, conf, offsets=batch.offsets, labels=batch.labels, labelled=batch.labelled
    )
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    limit = options.gradient_clip if options.gradient_clip is not None else float("inf")
    norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
    if not torch.isfinite(norm + loss.total.detach()):
        rate = optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is {loss.total.item():.3g} and its gradient's norm {norm.item():.3g}: "
            f"training diverged; resume from the last checkpoint with a lower --lr (now {rate:.2g})"
        )
    optimizer.step()
    return Loss(*(part.detach() for part in loss))


def normalised(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 pictures to (N, 3, S, S) float32 input, channels last in memory."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def make_optimizer(network: SSD, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer; it decays convolution weights and nothing else."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.peak_rate, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=options.peak_rate)


def set_training(network: SSD, options: TrainOptions, *, frozen: bool) -> None:
    """Training mode, except for what the options freeze."""
    network.train()
    if options.trunk_statistics == "frozen":
        network.trunk.eval()
    for number, stage in enumerate(network.trunk.stages()):
        still = frozen and number < options.frozen_stages
        for module in stage:
            module.requires_grad_(not still)
            if still:
                module.eval()


def evaluate_network(
    network: SSD,
    labels: LabelSet,
    dataset: Dataset,
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 16,
    listener: Listener | None = None,
) -> CocoMetrics:
    """COCO metrics of a torch network under the zoo policy. Unreadable pictures count as empty."""
    listener = listener or Listener()
    network.eval()
    default_boxes = default_boxes_cxcywh(network.spec)

    @torch.no_grad()
    def infer(
        prepared: Sequence[NDArray[np.float32]],
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        batch = torch.from_numpy(np.concatenate(prepared))
        batch = batch.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loc, conf = network(batch)
        return list(zip(loc.float().cpu().numpy(), conf.float().cpu().numpy(), strict=True))

    def pick(raw: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[Picked, ...]:
        return (postprocess(*raw, default_boxes_cxcywh=default_boxes, policy=ZOO),)

    stages = Stages(lambda image: preprocess(image, network.spec.image_size), infer, pick)
    metrics, _ = evaluate(
        stages,
        dataset,
        labels,
        batch_size=batch_size,
        progress=lambda done: listener.evaluating(done, len(dataset)),
        problem=listener.problem,
    )
    return metrics


def _check_before(
    network: SSD, labels: LabelSet, validation: Dataset, options: TrainOptions
) -> None:
    """What would otherwise only show after a whole epoch."""
    categories_of(labels, validation)
    if not any((~sample.ignored).any() for sample in validation.samples):
        raise DatasetError(f"{validation.name}: has no box to measure on")
    if network.spec.head_norm and options.batch_size < 2:
        raise OptionError("expected --batch 2 or more: batch norm needs it (or --no-head-norm)")
    if options.small_size is not None:
        network.spec.at_size(options.small_size)


def _evaluate(run: Run, validation: Dataset, device: torch.device, listener: Listener) -> None:
    """Measure the averaged weights, and keep them if they are the best so far."""
    with run.clock_stopped():
        metrics = evaluate_network(
            run.averaged.network,
            run.labels,
            validation,
            device=device,
            precision=run.options.precision,
            batch_size=run.options.batch_size,
            listener=dataclasses.replace(
                listener, problem=lambda p: listener.problem(p) if run.first_report(p) else None
            ),
        )
        run.evaluated = run.step
        run.log({"event": "evaluation", **metrics.to_dict()})
        if metrics.ap > run.best_ap:
            run.best_ap = metrics.ap
            run.save(BEST, training=False)
    listener.evaluated(run.step // run.batches_per_epoch, metrics)


class _Speed:
    """Sums since the last report."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.started = time.perf_counter()
        self.images = 0
        self.waited = 0.0
        self.losses: list[Tensor] = []

    def add(self, images: int, loss: Loss, waited: float) -> None:
        self.images += images
        self.waited += waited
        self.losses.append(torch.stack(loss))

    def report(self, run: Run, share: float, rate: float, batch: Batch) -> Progress:
        """The means since the last report; starts anew."""
        losses = torch.stack(self.losses).mean(dim=0).tolist() if self.losses else [0.0] * 3
        seconds = time.perf_counter() - self.started
        elapsed = run.elapsed()
        progress = Progress(
            step=run.step,
            batches_per_epoch=run.batches_per_epoch,
            share=share,
            elapsed=elapsed,
            remaining=elapsed * (1 - share) / share if share else 0.0,
            image_size=batch.images.shape[1] if len(batch.images) else 0,
            learning_rate=rate,
            loss=losses[0],
            box_loss=losses[1],
            class_loss=losses[2],
            images_per_second=self.images / seconds,
            data_wait=self.waited / seconds,
        )
        self.restart()
        return progress
