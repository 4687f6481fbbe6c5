"""Pictures with boxes to a trained detector: what ``train`` does."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.errors import DivergenceError, require
from ssd34.files.atomic import naming, remove_parts, write_json, written_whole
from ssd34.files.checkpoint import read_header
from ssd34.files.lock import folder_locked
from ssd34.machine import thread_budget
from ssd34.text import counted
from ssd34.train.progress import SILENT, TrainingOutcome, TrainListener
from ssd34.workflows.training.job import (
    OpenedData,
    PreparedRun,
    TrainJob,
    check_resumable,
    is_first_process,
    open_data,
    was_told,
    weighted,
)

if TYPE_CHECKING:
    import torch

    from ssd34.evaluate.metrics import CocoMetrics
    from ssd34.train.distributed import Ranks
    from ssd34.train.examples.preview import Preview
    from ssd34.train.progress import Progress

__all__ = ["TrainJob", "TrainListener", "Trained", "train"]

RECIPE_FILE = "recipe.json"

LOADED = {
    "torch": partial(require, "torch", extra="train", why="training"),
    "hotcoco": partial(require, "hotcoco", extra="evaluate", why="evaluation during training"),
    # Wanted only once there are weights and curves.
    "safetensors": partial(require, "safetensors.numpy", extra="train", why="a checkpoint"),
    "jinja2": partial(require, "jinja2", extra="train", why="the page that a training leaves"),
}
"""The libraries that training needs, and what loads them."""


@dataclass(frozen=True, kw_only=True)
class Trained(TrainingOutcome):
    """How a run ended.

    Attributes:
        summary: a line on it.
        report: a page with curves and pictures; None in a process that does not report.
    """

    summary: str
    report: Path | None

    @property
    def weights(self) -> Path:
        """The best ones; the last where none were measured."""
        return self.best if self.best.exists() else self.last


def train(
    job: TrainJob | None = None, *, listener: TrainListener = SILENT, **fields: Any
) -> Trained:
    """Train a detector on pictures, and measure it after every epoch.

    Args:
        job: what to do; None: what the `fields` say.
        listener: hears of progress and warnings; its ``stop`` ends the run, to be resumed.
        fields: those of `TrainJob` by name; they replace those of a `job`.

    Raises:
        OptionError: a setting is not allowed, or `output` holds another run or is written to.
        DatasetError: a data set cannot be used.
        CheckpointError: the weights to start from, or the run to resume, cannot be used.
        ModelError: a data set is given as the weights to start from.
        TrainingError: training cannot go on; `DivergenceError`: it diverged.
        MissingExtraError: an optional library is not installed.
    """
    check_libraries()
    job = replace(job, **fields) if job else TrainJob(**fields)
    first = is_first_process()
    if not first:
        listener = TrainListener(ready=listener.ready, stop=listener.stop, ended=listener.ended)
    with ExitStack() as stack:

        def start_workers() -> None:
            from ssd34.train.examples.cache import start_workers_server

            if job.given.get("workers") != 0:
                with suppress(OSError):  # if it cannot be started, who needs it tells
                    start_workers_server()  # it loads while this process does

        def open_all() -> OpenedData:
            if first:
                stack.enter_context(folder_locked(job.folder))
            return open_data(job, listener, found=start_workers)

        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        data = open_all() if alone else None
        start_workers()  # if they are not yet
        load_libraries()
        import torch

        from ssd34.train.distributed import join_processes
        from ssd34.workflows.training.runs import begin_run, choose_device, resume_run

        device = choose_device(job.device)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(job.threads or max(1, thread_budget() // here))
        # What stops one process later, even on another machine, then ends the others, too.
        ranks = stack.enter_context(join_processes(device))
        data = data or open_all()
        run = resume_run(job, data) if job.resume else begin_run(job, data, listener)
        if was_told(run.notes, "tensorboard"):
            require("tensorboardX", extra="tensorboard", why="--set tensorboard=true")
        _warn(run, job, listener)
        try:
            outcome = _learn(run, job, device, ranks, listener)
        except DivergenceError as error:
            if first:
                _write_page(f"Stopped: {error}.", run, job, device)
            raise
        listener.ended()
        summary = describe_ending(outcome, target_map=run.options.target_map)
        ended = f"{summary[0].upper()}{summary[1:]}."
        report = _write_page(ended, run, job, device) if first else None
    return Trained(**vars(outcome), summary=summary, report=report)


SHEET = "preview.png"
NUMBERS = "preview.json"


def preview(job: TrainJob, *, shown: int, listener: TrainListener = SILENT) -> Preview:
    """Write into the folder of a new run what it would see: a sheet of pictures, and counts of the
    objects. Nothing is trained. Errors are those of `train`."""
    if job.resume:
        check_resumable(job, others=("--preview",))
    data = open_data(job, listener)
    load_libraries()
    from ssd34.train.examples import preview as examples
    from ssd34.train.examples.loader import Loader
    from ssd34.workflows.training.runs import plan_run

    planned = plan_run(job, data, listener)
    spec, options = planned.spec, planned.plan.options

    def size_now(step: int) -> int:
        """As the run has it; by the clock its first epoch counts as its beginning."""
        steps = options.epochs * loader.batches_per_epoch if options.epochs else math.inf
        return options.size_at(step / steps, spec.image_size)

    alone = replace(options, workers=0, cache_mb=0)
    loader = Loader(planned.sources, spec=spec, options=alone, size_now=size_now)
    seen = examples.preview(loader, planned.labels, shown=shown)
    for problem in seen.problems:
        listener.warned(f"left out {problem}")
    job.folder.mkdir(parents=True, exist_ok=True)
    with written_whole(job.folder / SHEET) as temporary:
        seen.sheet.save(temporary, "PNG")
    write_json(job.folder / NUMBERS, seen.to_dict())
    return seen


def check_libraries() -> None:
    """Load what the checks of a training need; MissingExtraError: that, or what is loaded after
    them, as it takes seconds, is not installed."""
    require("msgspec", extra="train", why="the settings of a training")
    for module, load in LOADED.items():
        if find_spec(module) is None:
            load()


def load_libraries() -> None:
    """Load what training needs, which takes a while; MissingExtraError: one is not installed."""
    for load in LOADED.values():
        load()


def _warn(run: PreparedRun, job: TrainJob, listener: TrainListener) -> None:
    from ssd34.workflows.training.runs import find_untrained_levels

    if os.path.realpath(job.val) in (os.path.realpath(weighted(text)[0]) for text in job.sources):
        listener.warned(
            f"{job.val}: is learned from and measured on, so AP says little about other pictures; "
            f"divide it: ssd34 data split {job.val} NEW_FOLDER"
        )
    for name in sorted(set(run.validation.labels.names) - set(run.labels.names)):
        listener.warned(f"{job.val}: the class {name!r} is not trained and counts as missed")
    if untrained := find_untrained_levels(run.network.spec, run.options):
        listener.warned(untrained)
    for text in run.warnings:
        listener.warned(text)


def _learn(
    run: PreparedRun, job: TrainJob, device: torch.device, ranks: Ranks, listener: TrainListener
) -> TrainingOutcome:
    """Begin or continue the run."""
    import torch

    from ssd34.train.loop import train as run_loop
    from ssd34.train.run import HISTORY, read_history
    from ssd34.workflows.training.page import PAGE
    from ssd34.workflows.training.qat import make_rounding_network

    folder, network, notes = job.folder, run.network, run.notes
    # Processes on different machines would not find quite the same steps.
    steps = ranks.gather(notes.get(NOTE_INT8_STEPS))[0]
    if steps is not None:
        network = make_rounding_network(network, steps)
        notes = {**notes, NOTE_INT8_STEPS: steps}
    events: EventWriter | None = None
    if ranks.first:
        remove_parts(folder, (RECIPE_FILE, PAGE))
        pictures = sum(len(source.usable) for source in run.sources)
        facts = (
            f"{network.spec.name}, {counted(len(run.labels), 'class')}, start: {run.origin}; "
            f"{counted(pictures, 'picture')} to "
            f"learn from, {len(run.validation)} to measure on; {device}, {run.options.precision}, "
            f"{counted(torch.get_num_threads(), 'thread')}"
            + (f", {ranks.count} processes" if ranks.count > 1 else "")
        )
        resumed = run.begun_at is not None
        history = read_history(folder / HISTORY, until=run.begun_at) if resumed else []
        listener.begins([*run.facts, facts], history)

    def ready() -> None:
        nonlocal events
        if ranks.first and notes["recipe"]:
            write_json(folder / RECIPE_FILE, notes["recipe"])
        if ranks.first and was_told(notes, "tensorboard"):
            events = EventWriter(folder, resumed_at=run.begun_at)
        listener.ready()

    def progress(now: Progress) -> None:
        if events:
            events.progress(now)
        listener.progress(now)

    def evaluated(epoch: float, metrics: CocoMetrics) -> None:
        if events:
            events.evaluated(metrics)
        listener.evaluated(epoch, metrics)

    outcome = run_loop(
        network,
        run.labels,
        sources=run.sources,
        validation=run.validation,
        options=run.options,
        output=folder,
        resume=job.resume,
        device=device,
        notes=notes,
        listener=TrainListener(
            ready=ready,
            stepped=listener.stepped,
            progress=progress,
            evaluating=listener.evaluating,
            evaluated=evaluated,
            problem=listener.problem,
            stop=listener.stop,
        ),
        ranks=ranks,
    )
    if events:
        events.close()
    return outcome


def _write_page(ended: str, run: PreparedRun, job: TrainJob, device: torch.device) -> Path | None:
    """The page, where there are weights."""
    from ssd34.files.checkpoint import LAST
    from ssd34.workflows.training.page import write_page

    if not (job.folder / LAST).exists():
        return None
    trained_on = (
        f"Trained on {', '.join(job.sources)}, measured on {job.val}; {device}, "
        f"{run.options.precision}; start: {run.origin}."
    )
    return write_page(job.folder, run.validation, [ended, trained_on], device)


def describe_ending(outcome: TrainingOutcome, *, target_map: float | None) -> str:
    """What the run did, what it reached and, if there was a target, whether it did."""
    parts = [f"{'finished' if outcome.finished else 'stopped'} after "
             f"{counted(outcome.steps, 'step')}"]  # fmt: skip
    if outcome.best.exists() and outcome.best_ap >= 0:  # else what is there is of another policy
        best = read_header(outcome.best).state
        epoch = best["step"] / best["batches_per_epoch"]
        where = f"at epoch {epoch:.4g}" if best["step"] else "before the first step"
        parts[0] += f", best AP {outcome.best_ap:.4f} {where}"
        if outcome.finished and outcome.steps and not best["step"]:
            parts.append("nothing that it learned is better on --val than what it began with")
    if not outcome.finished:
        parts.append("continue with --resume")
    elif target_map is not None:
        reached = "reached" if outcome.best_ap >= target_map else "not reached"
        parts.append(f"target AP {target_map:g} {reached}")
    return "; ".join(parts)


FOLDER = "tensorboard"

_STEP = {
    "loss/all": "loss",
    "loss/box": "box_loss",
    "loss/class": "class_loss",
    "train/learning_rate": "learning_rate",
    "train/gradient_norm": "gradient_norm",
    "speed/images_per_second": "images_per_second",
    "speed/data_wait": "data_wait",
}


class EventWriter:
    """Writes a run's numbers as TensorBoard events beside the checkpoints.

    At once, not in the thread of the library's SummaryWriter: where that one dies of a full disk,
    who adds events waits without end.
    """

    def __init__(self, output: Path, *, resumed_at: int | None = None) -> None:
        """Open a file in the run's folder; what was written after the `resumed_at` steps no longer
        counts. OSError: the folder cannot be written."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = output / FOLDER
        self._step = resumed_at or 0
        with naming(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer: Any = EventsWriter(str(self._folder / "events"))
            if resumed_at is not None:
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=time.time(), step=resumed_at + 1, session_log=start)
                self._writer.write_event(event)
            self._writer.flush()

    def progress(self, now: Progress) -> None:
        """The numbers of some steps."""
        self._step = now.step
        self._add({tag: getattr(now, name) for tag, name in _STEP.items()})

    def evaluated(self, metrics: CocoMetrics) -> None:
        """COCO's numbers, and AP of each class, after the steps reported last."""
        summary = {f"evaluation/{k}": v for k, v in metrics.summary.items() if v is not None}
        self._add({**summary, **{f"class_AP/{k}": v for k, v in metrics.class_ap.items()}})

    def _add(self, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with naming(self._folder):
            for tag, value in values.items():
                event = Event(wall_time=time.time(), step=self._step, summary=scalar(tag, value))
                self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with naming(self._folder):
            self._writer.close()
