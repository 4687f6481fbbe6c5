"""The run in the output folder, with what may change in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.errors import OptionError, TrainingError
from ssd34.network.ssd import SSD
from ssd34.train.examples.example import make_training_sets
from ssd34.train.options import RESUMED, TrainOptions, write_setting
from ssd34.train.progress import TrainListener
from ssd34.train.recipe import resume_note, resume_options
from ssd34.train.run import LAST, read_run_to_resume
from ssd34.workflows.training.job import PreparedRun, TrainJob, is_first_process, open_data


def check_resumable(job: TrainJob, *, others: Sequence[str] = ()) -> None:
    """Only the length, workers, device, threads and the cache may be given, and no `others`.
    OptionError: something else was given. TrainingError: there is no run."""
    last = job.folder / LAST
    if not last.is_file():
        remedy = (
            "leave --resume out"
            if is_first_process()
            else "of several machines each has to see the folder of the run"
        )
        raise TrainingError(f"nothing to resume: {last} does not exist; {remedy}")
    options = {"--recipe": job.recipe, "--qat": job.qat}
    more = [*(option for option, value in options.items() if value), *others]
    more += [
        f"{key}={write_setting(value)}" for key, value in job.given.items() if key not in RESUMED
    ]
    if more:
        raise OptionError(
            "--resume takes --epochs, --minutes, --workers, --device, --threads and --set "
            f"cache_mb; a run cannot change {', '.join(more)}: leave it out, or begin a new run in "
            f"another --output with --init {last}"
        )


def resume_run(job: TrainJob, listener: TrainListener) -> PreparedRun:
    """The run as it continues. CheckpointError: there is no run that could continue. OptionError:
    something cannot change, or the new length is not allowed."""
    check_resumable(job)
    begun = read_run_to_resume(job.folder / LAST)
    notes = begun.state["notes"]
    options = resume_options(TrainOptions.from_dict(begun.state["options"]), job.given)
    datasets, validation = open_data(job, listener, coco_names=_was_told(notes, "coco_names"))
    note = resume_note(notes.get("recipe", {}), options, job.given)
    return PreparedRun(
        network=SSD(begun.spec),
        labels=begun.labels,
        options=options,
        sources=make_training_sets(datasets, begun.labels, balance=options.balance),
        validation=validation,
        origin="resumed",
        notes={"recipe": note} if note else {},
        steps=notes.get(NOTE_INT8_STEPS),
        tensorboard=_was_told(notes, "tensorboard"),
        begun_at=begun.state["step"],
    )


def _was_told(notes: Mapping[str, Any], key: str) -> bool:
    """Whether a run has a setting, which was an option in former versions."""
    settings = notes.get("recipe", {}).get("settings", {})
    option = f"--{key.replace('_', '-')}"
    return bool(settings.get(key, option in shlex.split(notes.get("command", ""))))
