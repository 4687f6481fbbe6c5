"""``ssd34 train --resume``: the run in ``--output``, with what may change in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd34.cli.train.qat import steps_of
from ssd34.cli.train.setup import Prepared, open_data
from ssd34.errors import OptionError, TrainingError


def check_resumable(given: Mapping[str, Any], *, others: Mapping[str, Any], output: Path) -> None:
    """Only the length, workers, device, threads and the cache may be given.

    Args:
        given: the settings that were given.
        others: the other options and what was given for them, by the option's name.
        output: the run's folder.

    Raises:
        OptionError: something else was given.
        TrainingError: there is no run.
    """
    from ssd34.train.run import LAST
    from ssd34.train.settings.options import RESUMED
    from ssd34.train.settings.settings import written

    last = output / LAST
    if not last.is_file():
        raise TrainingError(f"nothing to resume: {last} does not exist; leave --resume out")
    more = [option for option, value in others.items() if value]
    more += [f"{key}={written(value)}" for key, value in given.items() if key not in RESUMED]
    if more:
        raise OptionError(
            "--resume takes --epochs, --minutes, --workers, --device, --threads and --set "
            f"cache_mb; a run cannot change {', '.join(more)}: leave it out, or begin a new run in "
            f"another --output with --init {last}"
        )


def resumed_run(
    output: Path, given: Mapping[str, Any], *, data: Sequence[str], val: str, quiet: bool
) -> Prepared:
    """The run as it goes on.

    Raises:
        CheckpointError: there is no run that could go on.
        OptionError: the new length is not allowed.
    """
    from ssd34.network.ssd import SSD
    from ssd34.train.examples.example import training_sets
    from ssd34.train.run import LAST, run_to_resume
    from ssd34.train.settings.options import TrainOptions
    from ssd34.train.settings.recipe import resume_note, resume_options

    begun = run_to_resume(output / LAST)
    notes = begun.state["notes"]
    options = resume_options(TrainOptions.from_dict(begun.state["options"]), given)
    datasets, validation = open_data(
        data, val, coco_names=_was_told(notes, "coco_names"), quiet=quiet
    )
    note = resume_note(notes.get("recipe", {}), options, given)
    return Prepared(
        network=SSD(begun.spec),
        labels=begun.labels,
        options=options,
        sources=training_sets(datasets, begun.labels, balance=options.balance),
        validation=validation,
        origin="resumed",
        notes={"recipe": note} if note else {},
        steps=steps_of(notes),
        tensorboard=_was_told(notes, "tensorboard"),
        begun_at=begun.state["step"],
    )


def _was_told(notes: Mapping[str, Any], key: str) -> bool:
    """Whether a run has a setting, which was an option in former versions."""
    settings = notes.get("recipe", {}).get("settings", {})
    option = f"--{key.replace('_', '-')}"
    return bool(settings.get(key, option in shlex.split(notes.get("command", ""))))
