"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import named_policy
from ssd34.datasets.dataset import Dataset, Problem
from ssd34.errors import DatasetError, DivergenceError, OptionError, TrainingError
from ssd34.evaluate.metrics import match_categories
from ssd34.files.checkpoint import BEST, LAST
from ssd34.network.ssd import SSD
from ssd34.train import step as steps
from ssd34.train.distributed import ALONE, CPU, Ranks, share_batch_norm
from ssd34.train.examples.example import TrainingSet
from ssd34.train.examples.loader import Loader, count_batches, gather_problems, report_deaths
from ssd34.train.options import TrainOptions
from ssd34.train.progress import SILENT, Pace, TrainingOutcome, TrainListener
from ssd34.train.run import NOTE_MEASURE_START, TrainingRun, describe_pictures
from ssd34.train.validate import StoppedError, evaluate_network

LOG_EVERY = 20


def train(
    network: SSD,
    labels: LabelSet,
    *,
    sources: Sequence[TrainingSet],
    validation: Dataset,
    options: TrainOptions,
    output: Path,
    resume: bool = False,
    device: torch.device = CPU,
    notes: Mapping[str, Any] | None = None,
    listener: TrainListener = SILENT,
    ranks: Ranks = ALONE,
) -> TrainingOutcome:
    """Train a network with the classes `labels` in place; evaluate and save after each epoch, or
    every so many.

    Args:
        output: an existing folder for ``last.safetensors``, ``best.safetensors`` and
            ``history.jsonl``.
        resume: continue from ``last.safetensors``. With a length in epochs the result is the same
            as without the interruption; with minutes the clock decides.
        notes: kept in the checkpoints, such as where the first weights came from, and
            `NOTE_MEASURE_START`.
        listener: its ``stop`` ends the run after a step or within an evaluation, resumable.
        ranks: the processes that train together; each calls this with the same arguments.

    Raises:
        DatasetError: nothing to measure on.
        DivergenceError: the loss or its gradient is not finite any more, or explodes.
        TrainingError: the memory is too small, no picture can be read, or there is nothing to
            resume.
    """
    _check_before(network, labels, validation, options, ranks)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes repeat: look once for what is fastest
    if ranks.count > 1:
        ranks.share_weights(network)
        share_batch_norm(network)
    optimizer = steps.make_optimizer(network, options)
    averaged = steps.AveragedWeights(network, decay=options.ema_decay)
    run = TrainingRun(
        network=network,
        labels=labels,
        optimizer=optimizer,
        averaged=averaged,
        options=options,
        output=output,
        notes=dict(notes or {}),
        batches_per_epoch=count_batches(sources, options.batch_size),
        pictures=describe_pictures(sources, validation),
        writes=ranks.first,
    )
    if resume:
        run.restore()
    _check_alike(run, ranks)
    if not resume:
        run.start_history()
    loader = Loader(
        sources,
        spec=network.spec,
        options=options,
        size_now=lambda step: options.size_at(run.share(step), network.spec.image_size),
        pinned=device.type == "cuda",
        ranks=ranks,
    )
    listener.ready()
    pace = Pace()
    saved_at = run.elapsed()
    due = False
    interval = run.batches_per_epoch * options.evaluate_every
    began, usable = run.step, 0
    share = run.share(run.step)
    if run.step == 0:
        missed = run.notes.get(NOTE_MEASURE_START, False) and run.best_ap < 0
    else:
        missed = run.step % interval == 0 and run.evaluated != run.step  # it was interrupted
    if missed:
        _evaluate(run, validation, device, listener, ranks)
    with report_deaths(), closing(loader.batches(run.step, listener.stop)) as batches:
        while share < 1 and not run.reached_target and not ranks.any(listener.stop()):
            waited = time.perf_counter()
            batch = next(batches, None)
            if batch is None:  # asked to stop
                break
            waited = time.perf_counter() - waited
            problems = gather_problems(batch.problems, ranks)
            _report(problems, run, listener, ranks)
            rate = options.rate_at(run.step, share)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            steps.set_training(network, options, frozen=share < options.frozen_share)
            step = steps.train_step(
                network, optimizer, batch, options=options, device=device, ranks=ranks
            )
            if step is not None:
                what = run.watch.find_wrong(step)
                if what:
                    advice = f"{what}: {steps.advise(rate=rate, step=run.step, saved=run.saved)}"
                    run.log({"event": "diverged", "reason": advice})
                    raise DivergenceError(advice)
                averaged.update(network, step=run.step)
                pace.add(step, waited=waited)
                usable += step.pictures
            run.step += 1
            share = run.share(run.step)
            listener.stepped(run.step, share)

            end_of_epoch = run.step % run.batches_per_epoch == 0
            if run.step % LOG_EVERY == 0 or end_of_epoch or share >= 1:
                progress = pace.report(
                    run, share=share, rate=rate, image_size=batch.images.shape[1]
                )
                if ranks.first:
                    listener.progress(progress)
                run.log({"event": "step", **dataclasses.asdict(progress)})
            if end_of_epoch:
                whole_epoch = run.step - began >= run.batches_per_epoch
                if usable == 0 and whole_epoch:
                    first = f"; the first: {problems[0]}" if problems else ""
                    raise TrainingError(f"no picture could be read in a whole epoch{first}")
                usable = 0
            to_measure = run.step % interval == 0 or share >= 1
            late = run.elapsed() - saved_at > 60 * options.checkpoint_minutes
            due = due or to_measure or late
            # Weights that may be exploding do not take the place of good ones.
            if due and not run.watch.doubtful:
                with run.clock_stopped():
                    run.save_last()
                saved_at = run.elapsed()
                due = False
            if to_measure:
                _evaluate(run, validation, device, listener, ranks)
                pace.restart()
    if share >= 1 and run.evaluated != run.step and not ranks.any(listener.stop()):
        _evaluate(run, validation, device, listener, ranks)
    run.save_last()
    return TrainingOutcome(
        last=output / LAST,
        best=output / BEST,
        best_ap=run.best_ap,
        steps=run.step,
        finished=(share >= 1 or run.reached_target) and run.evaluated == run.step,
    )


def _check_before(
    network: SSD, labels: LabelSet, validation: Dataset, options: TrainOptions, ranks: Ranks
) -> None:
    """What would otherwise only show after a whole epoch."""
    match_categories(labels, validation)
    if not any((~sample.ignored).any() for sample in validation.samples):
        raise DatasetError(f"{validation.name}: has no box to measure on")
    if options.batch_size // options.accumulate < steps.count_fewest_pictures(network, options):
        less = "" if options.accumulate == 1 else ", a smaller accumulate"
        raise OptionError(
            "expected two pictures or more in each part of a batch, which batch norm in the extra "
            f"blocks needs: --batch {2 * options.accumulate} or more{less}, or, from a trained "
            "detector, --set head_statistics=frozen"
        )
    if options.small_size is not None:
        network.spec.at_size(options.small_size)
    if ranks.count > 1 and options.epochs is None:
        raise OptionError(
            "expected --epochs with several processes: their clocks would not end together"
        )
    if options.batch_size < ranks.count * options.accumulate:
        raise OptionError(
            f"expected --batch {ranks.count * options.accumulate} or more, a picture for each "
            f"part of each process, got {options.batch_size}"
        )


def _check_alike(run: TrainingRun, ranks: Ranks) -> None:
    """Refuse processes that would draw other batches, or compute them otherwise: on machines that
    do not see the same files, or whose processors differ."""
    settings = dataclasses.asdict(run.options)
    mine = {
        **{key: value for key, value in settings.items() if key not in ("workers", "cache_mb")},
        "--data": [[one["fingerprint"], one["weight"]] for one in run.pictures["training"]],
        "--val": run.pictures["validation"]["fingerprint"],
        "the step of the checkpoint": run.step,
    }
    first, *others = ranks.gather(mine)
    for rank, other in enumerate(others, 1):
        for key, value in first.items():
            if other[key] != value:
                raise TrainingError(
                    f"{key}: {value} in the first process, {other[key]} in process {rank}; every "
                    "machine needs the same pictures, boxes and settings: give those that follow "
                    "from the machine, such as --set precision=fp32"
                )


def _report(
    problems: Sequence[Problem], run: TrainingRun, listener: TrainListener, ranks: Ranks
) -> None:
    """Tell once of each picture that any process could not read."""
    for problem in problems:
        if run.first_report(problem) and ranks.first:
            listener.problem(problem)


def _evaluate(
    run: TrainingRun,
    validation: Dataset,
    device: torch.device,
    listener: TrainListener,
    ranks: Ranks,
) -> None:
    """Measure the averaged weights, and keep them if they are the best so far; nothing where it is
    asked to stop: a resumed run makes up for it."""
    options, side = run.options, run.network.spec.image_size
    at_once = max(1, options.batch_size // (options.accumulate * ranks.count))
    with run.clock_stopped():
        try:
            with steps.advise_on_memory(run.network, options, at_once, side):
                metrics = evaluate_network(
                    run.averaged.network,
                    run.labels,
                    validation,
                    device=device,
                    precision=options.precision,
                    policy=named_policy(options.policy),
                    batch_size=at_once,
                    progress=listener.evaluating if ranks.first else lambda _done, _total: None,
                    problem=lambda problem: _report([problem], run, listener, ranks),
                    stop=listener.stop,
                    ranks=ranks,
                )
        except StoppedError:
            return
        ap = ranks.gather(metrics.ap if metrics else -1.0)[0]
        run.evaluated = run.step
        best = ap > run.best_ap
        run.best_ap = max(ap, run.best_ap)
        if best:
            run.save_best()
        # The history comes last: what it has is done, and what it lacks a resumed run repeats.
        if metrics:
            run.log({"event": "evaluation", "policy": options.policy, **metrics.to_dict()})
    if metrics:
        listener.evaluated(run.step / run.batches_per_epoch, metrics)
