"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, postprocess
from ssd34.core.preprocess import MEAN, STD, preprocess
from ssd34.data.atomic import write_text
from ssd34.data.checkpoint import Arrays, Checkpoint, read_checkpoint
from ssd34.data.dataset import Dataset, Problem
from ssd34.errors import CheckpointError, ImageError, TrainingError
from ssd34.evaluate.coco_metrics import (
    CocoMetrics,
    Result,
    categories_of,
    coco_metrics,
    coco_results,
)
from ssd34.network.ssd import SSD, arrays_of, load_weights
from ssd34.train.ema import AveragedWeights
from ssd34.train.loader import Batch, Loader, TrainingSet
from ssd34.train.loss import Loss, detection_loss
from ssd34.train.options import TrainOptions
from ssd34.train.schedule import Schedule

LAST = "last.safetensors"
BEST = "best.safetensors"
HISTORY = "history.jsonl"
LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands after a step. Times in seconds."""

    step: int
    epoch: int
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
        TrainingError: the loss is not finite any more, or nothing is there to resume.
    """
    listener = listener or Listener()
    device = device or torch.device("cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, options)
    averaged = AveragedWeights(network, decay=options.ema_decay)
    run = _Run(
        network, labels, optimizer, averaged, options=options, output=output, notes=notes or {}
    )
    if resume:
        run.restore()
    else:
        write_text(output / HISTORY, "")

    loader = Loader(
        sources,
        spec=network.spec,
        options=options.augmentation,
        batch_size=options.batch_size,
        seed=options.seed,
        workers=options.workers,
        size_now=lambda step: _size_at(
            run.share_at(step, loader), network.spec.image_size, options
        ),
    )
    schedule = Schedule(
        peak=options.peak_rate, warmup_steps=options.warmup_steps, kind=options.schedule
    )
    batches = loader.batches(run.step)
    run.start_clock()
    saved_at = run.elapsed()
    speed = _Speed()
    while (share := run.share_at(run.step, loader)) < 1 and not listener.stop():
        waited = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - waited
        for problem in batch.problems:
            listener.problem(problem)
            run.log({"event": "problem", "where": problem.where, "reason": problem.reason})

        rate = schedule.rate(step=run.step, progress=share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        set_training(network, options, frozen=share < options.frozen_share)
        if len(batch.images):
            loss = train_step(network, optimizer, batch, options=options, device=device)
            averaged.update(network, step=run.step)
            speed.add(len(batch.images), loss, waited)
        run.step += 1

        end_of_epoch = run.step % loader.batches_per_epoch == 0
        if run.step % LOG_EVERY == 0 or end_of_epoch:
            progress = run.progress(loader, speed, rate, batch)
            if not np.isfinite(progress.loss):
                raise TrainingError(
                    f"the loss is {progress.loss} at step {run.step}: training diverged; resume "
                    f"from {output / LAST} or start again with a lower --lr (now {rate:.2g})"
                )
            listener.progress(progress)
            run.log({"event": "step", **dataclasses.asdict(progress)})
        if end_of_epoch or run.share_at(run.step, loader) >= 1:
            metrics = run.evaluate(validation, device, listener)
            listener.evaluated(run.step // loader.batches_per_epoch, metrics)
        if end_of_epoch or run.elapsed() - saved_at > 60 * options.checkpoint_minutes:
            run.save(output / LAST, training=True)
            saved_at = run.elapsed()
    run.save(output / LAST, training=True)
    return Outcome(
        last=output / LAST,
        best=output / BEST,
        best_ap=run.best_ap,
        steps=run.step,
        finished=run.share_at(run.step, loader) >= 1,
    )


def train_step(
    network: SSD,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    options: TrainOptions,
    device: torch.device,
) -> Loss:
    """One step of SGD on one batch."""
    batch = batch.to(device)
    images = normalised(batch.images)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        loc, conf = network(images)
    loss = detection_loss(
        loc, conf, offsets=batch.offsets, labels=batch.labels, labelled=batch.labelled
    )
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
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
        for module in stage:
            module.requires_grad_(not (frozen and number < options.frozen_stages))


def _size_at(share: float, full: int, options: TrainOptions) -> int:
    small = options.small_size is not None and share < options.small_share
    return options.small_size if small and options.small_size is not None else full


@torch.no_grad()
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
    categories = categories_of(labels, dataset)
    results: list[Result] = []
    for start in range(0, len(dataset), batch_size):
        samples, inputs = [], []
        for sample in dataset.samples[start : start + batch_size]:
            try:
                inputs.append(preprocess(dataset.read(sample), network.spec.image_size))
                samples.append(sample)
            except ImageError as error:
                listener.problem(Problem(sample.file_name, str(error)))
        if not samples:
            continue
        images = torch.from_numpy(np.concatenate(inputs)).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loc, conf = network(images)
        raw = zip(loc.float().cpu().numpy(), conf.float().cpu().numpy(), strict=True)
        for sample, (offsets, logits) in zip(samples, raw, strict=True):
            picked = postprocess(offsets, logits, default_boxes_cxcywh=default_boxes, policy=ZOO)
            results += coco_results(picked, sample=sample, categories=categories)
        listener.evaluating(min(start + batch_size, len(dataset)), len(dataset))
    return coco_metrics(dataset, results)


class _Speed:
    """Sums since the last report."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.images = 0
        self.waited = 0.0
        self.losses: list[Tensor] = []

    def add(self, images: int, loss: Loss, waited: float) -> None:
        self.images += images
        self.waited += waited
        self.losses.append(torch.stack(loss))


class _Run:
    """What a run carries from step to step and through an interruption."""

    def __init__(
        self,
        network: SSD,
        labels: LabelSet,
        optimizer: torch.optim.Optimizer,
        averaged: AveragedWeights,
        *,
        options: TrainOptions,
        output: Path,
        notes: dict[str, Any],
    ) -> None:
        self.network = network
        self.labels = labels
        self.optimizer = optimizer
        self.averaged = averaged
        self.options = options
        self.output = output
        self.notes = notes
        self.step = 0
        self.best_ap = -1.0
        self._elapsed_before = 0.0
        self._clock = time.monotonic()

    def start_clock(self) -> None:
        self._clock = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of training, over all sittings."""
        return self._elapsed_before + time.monotonic() - self._clock

    def share_at(self, step: int, loader: Loader) -> float:
        """Share of the run done, by steps or by the clock."""
        if self.options.epochs is not None:
            return step / (self.options.epochs * loader.batches_per_epoch)
        assert self.options.minutes is not None
        return self.elapsed() / (60 * self.options.minutes)

    def progress(self, loader: Loader, speed: _Speed, rate: float, batch: Batch) -> Progress:
        losses = torch.stack(speed.losses).mean(dim=0).tolist() if speed.losses else [0.0] * 3
        seconds = time.perf_counter() - speed.started
        share = self.share_at(self.step, loader)
        elapsed = self.elapsed()
        progress = Progress(
            step=self.step,
            epoch=self.step // loader.batches_per_epoch,
            batches_per_epoch=loader.batches_per_epoch,
            share=share,
            elapsed=elapsed,
            remaining=elapsed * (1 - share) / share if share else 0.0,
            image_size=batch.images.shape[1] if len(batch.images) else 0,
            learning_rate=rate,
            loss=losses[0],
            box_loss=losses[1],
            class_loss=losses[2],
            images_per_second=speed.images / seconds,
            data_wait=speed.waited / seconds,
        )
        speed.reset()
        return progress

    def evaluate(self, dataset: Dataset, device: torch.device, listener: Listener) -> CocoMetrics:
        metrics = evaluate_network(
            self.averaged.network,
            self.labels,
            dataset,
            device=device,
            precision=self.options.precision,
            listener=listener,
        )
        self.log({"event": "evaluation", "step": self.step, **metrics.to_dict()})
        if metrics.ap > self.best_ap:
            self.best_ap = metrics.ap
            self.save(self.output / BEST, training=False)
        return metrics

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to the history."""
        record = {"time": round(time.time(), 3), **record}
        with (self.output / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self, path: Path, *, training: bool) -> None:
        """A checkpoint of the averaged weights; with what training needs, if it is to go on."""
        arrays: Arrays = {}
        if training:
            arrays = {f"model.{k}": a for k, a in arrays_of(self.network).items()}
            for name, parameter in self.network.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        arrays[f"optimizer.{key}.{name}"] = value.cpu().numpy()
        Checkpoint(
            spec=self.network.spec,
            labels=self.labels,
            weights=arrays_of(self.averaged.network),
            training=arrays,
            state={
                "step": self.step,
                "elapsed": self.elapsed(),
                "best_ap": self.best_ap,
                "options": self.options.to_dict(),
                "notes": self.notes,
            },
        ).save(path)

    def restore(self) -> None:
        """Go on from the last checkpoint."""
        path = self.output / LAST
        if not path.is_file():
            raise TrainingError(f"nothing to resume: {path} does not exist; leave --resume out")
        checkpoint = read_checkpoint(path, training=True)
        if checkpoint.spec != self.network.spec or checkpoint.labels != self.labels:
            raise CheckpointError(
                f"{path}: was trained as {checkpoint.spec.name} with {len(checkpoint.labels)} "
                f"classes, this run is {self.network.spec.name} with {len(self.labels)}; "
                "resume with the same --spec and data"
            )
        load_weights(self.averaged.network, checkpoint.weights, source=str(path))
        model = {k.removeprefix("model."): a for k, a in checkpoint.training.items()
                 if k.startswith("model.")}  # fmt: skip
        load_weights(self.network, model, source=str(path))
        for name, parameter in self.network.named_parameters():
            for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step"):
                array = checkpoint.training.get(f"optimizer.{key}.{name}")
                if array is not None:
                    # The step counters of AdamW stay on the CPU, as torch keeps them.
                    home = "cpu" if key == "step" else parameter.device
                    value = torch.from_numpy(array.copy()).to(home)
                    self.optimizer.state[parameter][key] = value
        self.step = int(checkpoint.state["step"])
        self.best_ap = float(checkpoint.state["best_ap"])
        self._elapsed_before = float(checkpoint.state["elapsed"])
        self.notes = {**checkpoint.state.get("notes", {}), **self.notes}
        self._forget_later_history()

    def _forget_later_history(self) -> None:
        history = self.output / HISTORY
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        kept = [line for line in lines if json.loads(line).get("step", 0) <= self.step]
        write_text(history, "".join(f"{line}\n" for line in kept))
