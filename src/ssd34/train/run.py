"""What a training run carries from step to step and through an interruption."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset, Problem, fingerprint
from ssd34.errors import CheckpointError, TrainingError
from ssd34.files.atomic import naming, remove_parts, write_text
from ssd34.files.checkpoint import BEST, LAST, Arrays, Checkpoint, read_checkpoint
from ssd34.network.ssd import SSD, copy_arrays, load_weights
from ssd34.text import counted
from ssd34.train.examples.example import TrainingSet
from ssd34.train.options import TrainOptions
from ssd34.train.step import AveragedWeights, LossWatch

HISTORY = "history.jsonl"

NOTE_MEASURE_START = "measure_start"
"""Of a run's notes: whether its first weights, too, are measured, and may be the best."""

_MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")


@dataclass(kw_only=True, eq=False)
class TrainingRun:
    """Weights, optimizer, position, clock and history of a run.

    Attributes:
        step: steps done.
        best_ap: best AP so far; -1 before the first evaluation.
        evaluated: the step after which was last evaluated.
        saved: the step after which `LAST` was last written, or -1.
        writes: whether this process writes files; of several only the first does.
    """

    network: SSD
    labels: LabelSet
    optimizer: torch.optim.Optimizer
    averaged: AveragedWeights
    options: TrainOptions
    output: Path
    notes: dict[str, Any]
    batches_per_epoch: int
    pictures: Pictures
    writes: bool = True
    step: int = 0
    saved: int = -1
    best_ap: float = -1.0
    evaluated: int = 0
    watch: LossWatch = field(default_factory=LossWatch)
    _reported: set[tuple[str, str]] = field(default_factory=set)
    _trained: float = 0.0
    _since: float | None = field(default_factory=lambda: time.monotonic())

    def elapsed(self) -> float:
        """Seconds of training, also before a resume, without evaluation."""
        return self._trained + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Time in here does not count."""
        self._trained, self._since = self.elapsed(), None
        try:
            yield
        finally:
            self._since = time.monotonic()

    def share(self, step: int) -> float:
        """Share of the run done after so many steps, 0..1: by steps, or now by the clock."""
        if self.options.epochs is not None:
            return min(1.0, step / (self.options.epochs * self.batches_per_epoch))
        assert self.options.minutes is not None
        return min(1.0, self.elapsed() / (60 * self.options.minutes))

    def time_left(self, step_seconds: float) -> float:
        """Seconds of training to come, at so many seconds a step."""
        if self.options.epochs is not None:
            return (self.options.epochs * self.batches_per_epoch - self.step) * step_seconds
        assert self.options.minutes is not None
        return max(0.0, 60 * self.options.minutes - self.elapsed())

    @property
    def reached_target(self) -> bool:
        """Whether an evaluation has reached the AP at which the run stops."""
        target = self.options.target_map
        return target is not None and self.best_ap >= target

    def first_report(self, problem: Problem) -> bool:
        """Log a problem; False where it was met before."""
        told = (problem.where, problem.reason)
        if told in self._reported:
            return False
        self._reported.add(told)
        self.log({"event": "problem", "where": problem.where, "reason": problem.reason})
        return True

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to the history."""
        if not self.writes:
            return
        record = {"time": round(time.time(), 3), "step": self.step, **record}
        history = self.output / HISTORY
        with naming(history), history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def start_history(self) -> None:
        """A new, empty history."""
        if self.writes:
            remove_parts(self.output, (LAST, BEST, HISTORY))
            (self.output / BEST).unlink(missing_ok=True)
            write_text(self.output / HISTORY, "")

    def save_last(self) -> None:
        """Write `LAST`, from which training can resume, unless it is of this very step."""
        if self.saved != self.step:
            self._save(LAST, training=True)
            self.saved = self.step

    def save_best(self) -> None:
        """Write `BEST`, without what only training needs."""
        self._save(BEST, training=False)

    def _save(self, name: str, *, training: bool) -> None:
        """A checkpoint of the averaged weights; with what a resume needs, if asked for."""
        if not self.writes:
            return
        arrays: Arrays = {}
        if training:
            arrays = {f"model.{k}": a for k, a in copy_arrays(self.network).items()}
            for name_of, parameter in self.network.named_parameters():
                for key in _MOMENTS:
                    value = self.optimizer.state.get(parameter, {}).get(key)
                    if value is not None:
                        arrays[f"optimizer.{key}.{name_of}"] = value.cpu().numpy()
        Checkpoint(
            spec=self.network.spec,
            labels=self.labels,
            weights=copy_arrays(self.averaged.network),
            training=arrays,
            state={
                "step": self.step,
                "evaluated": self.evaluated,
                "elapsed": self.elapsed(),
                "best_ap": self.best_ap,
                "loss": dataclasses.asdict(self.watch),
                "batches_per_epoch": self.batches_per_epoch,
                "pictures": self.pictures,
                "options": dataclasses.asdict(self.options),
                "notes": self.notes,
            },
        ).save(self.output / name)

    def restore(self) -> None:
        """Continue from the last checkpoint, of which network and options are; CheckpointError
        where there is none, TrainingError where the run was of other data."""
        path = self.output / LAST
        checkpoint = read_checkpoint(path, training=True)
        state = checkpoint.state
        self._check(state, path)
        load_weights(self.averaged.network, checkpoint.weights, source=str(path))
        arrays = checkpoint.training
        model = {k.removeprefix("model."): a for k, a in arrays.items() if k.startswith("model.")}
        if not model:
            raise CheckpointError(_not_resumable(path))
        load_weights(self.network, model, source=str(path))
        for name, parameter in self.network.named_parameters():
            for key in _MOMENTS:
                array = arrays.get(f"optimizer.{key}.{name}")
                if array is None:
                    continue
                value = torch.from_numpy(array.copy())
                if key != "step":  # AdamW's step counters stay on the CPU, as torch keeps them
                    value = torch.empty_like(parameter).copy_(value)
                self.optimizer.state[parameter][key] = value
        self.step = self.saved = int(state["step"])
        self.evaluated = int(state["evaluated"])
        self.best_ap = float(state["best_ap"])
        self.watch = LossWatch(**state.get("loss", {}))  # checkpoints had none at first
        self.notes = {**state["notes"], **self.notes}
        self._trained, self._since = float(state["elapsed"]), time.monotonic()
        self._forget_later_history()
        if self.writes:
            remove_parts(self.output, (LAST, BEST, HISTORY))

    def _check(self, state: Mapping[str, Any], path: Path) -> None:
        """Refuse other data than the run began with."""
        # Checkpoints did not name their pictures at first.
        other = find_other_pictures(state.get("pictures", self.pictures), self.pictures)
        was, now = state["batches_per_epoch"], self.batches_per_epoch
        if not other and was != now:
            other = f"{was} batches an epoch (--data, --batch), now it is {now}"
        if other:
            raise TrainingError(
                f"{path}: the run began with {other}; resume with the same pictures, boxes and "
                "weights, or begin another run with --init"
            )

    def _forget_later_history(self) -> None:
        """Drop what was written after the checkpoint, and a line cut by a crash."""
        history = self.output / HISTORY
        records = read_history(history, until=self.step)
        for record in records:
            if record["event"] == "evaluation":
                self.evaluated = record["step"]
                self.best_ap = max(self.best_ap, record["summary"]["AP"] or 0.0)
            if record["event"] == "problem":
                self._reported.add((record["where"], record["reason"]))
        if self.writes:
            write_text(history, "".join(f"{json.dumps(record)}\n" for record in records))


_STATE = ("step", "evaluated", "elapsed", "best_ap", "batches_per_epoch", "options", "notes")


def read_run_to_resume(path: Path) -> Checkpoint:
    """A run's last checkpoint without training's arrays; CheckpointError: it holds no run."""
    checkpoint = read_checkpoint(path)
    if not set(_STATE) <= set(checkpoint.state):
        raise CheckpointError(_not_resumable(path))
    return checkpoint


def _not_resumable(path: Path) -> str:
    return (
        f"{path}: holds weights alone, no run to resume; start a new run from it with "
        "--init, in another --output"
    )


def read_history(path: Path, *, until: int | None = None) -> list[dict[str, Any]]:
    """The records of a ``history.jsonl``, up to a step if given, without a line cut by a crash."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if until is None or record["step"] <= until]


Pictures = Mapping[str, Any]
"""``training``, a list, and ``validation``: data sets' name, pictures, weight and fingerprint."""


def describe_pictures(sources: Sequence[TrainingSet], validation: Dataset) -> Pictures:
    """What a run's checkpoints say of its data."""
    sets = [*((source.dataset, source.weight) for source in sources), (validation, 1.0)]
    *training, measured = (
        {"name": d.name, "pictures": len(d), "weight": weight, "fingerprint": fingerprint(d)}
        for d, weight in sets
    )
    return {"training": training, "validation": measured}


def find_other_pictures(was: Pictures, now: Pictures) -> str | None:
    """What a run learned from or was measured on, and what it is to be now, where they differ."""
    pairs = [("--data", *pair) for pair in zip_longest(was["training"], now["training"])]
    for option, before, after in (*pairs, ("--val", was["validation"], now["validation"])):
        if _key(before) != _key(after):
            return f"{option} {_written(before)}, now it is {_written(after)}"
    return None


def _key(one: Mapping[str, Any] | None) -> Any:
    """What has to be the same; a data set may have moved."""
    return one and (one["fingerprint"], one["weight"])


def _written(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "nothing"
    weight = "" if one["weight"] == 1 else f", weight {one['weight']:g}"
    # Where only boxes differ, nothing else would show it.
    return (
        f"{one['name']} ({counted(one['pictures'], 'picture')}{weight}, {one['fingerprint'][:8]})"
    )
