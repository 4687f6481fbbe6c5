"""What a training is told, and a run that can begin or continue. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset, use_coco_names
from ssd34.errors import OptionError
from ssd34.train.progress import TrainListener

if TYPE_CHECKING:
    from ssd34.network.ssd import SSD
    from ssd34.train.examples.example import TrainingSet
    from ssd34.train.options import TrainOptions

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A training to do.

    Attributes:
        data: pictures to learn from: the path of a data set, ``PATH=WEIGHT``, or several of them.
        val: path of the data set to measure on.
        output: folder of the run.
        recipe: name, or a run's ``recipe.json``; None: the first of `RECIPES`.
        init: what to start from; None: what the recipe says.
        epochs: length; None: what the recipe says.
        settings: any other settings by name, as in a recipe.
        qat: train with the rounding of the int8 file.
        resume: continue the run in `output`.
        device: one of `DEVICES`.
        threads: that compute; None: what there is.
        command: what the checkpoints say they were made by.
    """

    data: str | Path | Sequence[str | Path]
    val: str | Path
    output: str | Path
    recipe: str | None = None
    init: str | None = None
    epochs: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    qat: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int | None = None
    command: str = "ssd34.train, from Python"

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise OptionError(f"expected device {' or '.join(DEVICES)}, got {self.device!r}")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"expected threads of at least 1, got {self.threads}")
        for name in ("init", "epochs"):
            if getattr(self, name) is not None and name in self.settings:
                raise OptionError(f"expected {name} once, got it again in settings")

    @property
    def sources(self) -> tuple[str, ...]:
        """`data` as texts."""
        data = (self.data,) if isinstance(self.data, str | Path) else self.data
        return tuple(str(one) for one in data)

    @property
    def folder(self) -> Path:
        """`output` as a path."""
        return Path(self.output)

    @property
    def given(self) -> dict[str, Any]:
        """All settings that were given."""
        named = {"init": self.init, "epochs": self.epochs}
        return {**self.settings, **{k: v for k, v in named.items() if v is not None}}


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """A run that can begin or continue.

    Attributes:
        network: with its first weights; those of a resumed run are still to be read.
        sources, validation: what to learn from and to measure on.
        origin: where the first weights come from, in words.
        steps: the int8 steps that its network rounds by; None: it does not, or in a process that
            leaves finding them to the first.
        tensorboard: whether to write TensorBoard's events.
        begun_at: the step from which a resumed run continues; None: it is new.
        warnings: a line on each setting that fits the run badly.
        facts: lines on its settings.
    """

    network: SSD
    labels: LabelSet
    options: TrainOptions
    sources: Sequence[TrainingSet]
    validation: Dataset
    origin: str
    notes: dict[str, Any]
    steps: dict[str, Any] | None
    tensorboard: bool
    begun_at: int | None = None
    warnings: Sequence[str] = ()
    facts: Sequence[str] = ()


def is_first_process() -> bool:
    """Whether this process writes and reports; of those that torchrun starts only one does."""
    return int(os.environ.get("RANK", "0")) == 0


def open_data(
    job: TrainJob, listener: TrainListener, *, coco_names: bool
) -> tuple[Sequence[tuple[Dataset, float]], Dataset]:
    """The data sets to learn from, each with its weight, and the one to measure on."""

    def opened(path: str) -> Dataset:
        dataset = open_dataset(path)
        if coco_names:
            dataset = use_coco_names(dataset)
        listener.dataset_opened(dataset)
        return dataset

    datasets = [(opened(path), weight) for path, weight in map(weighted, job.sources)]
    return datasets, opened(str(job.val))


def weighted(text: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT; a path that itself holds '=' is fine."""
    path, separator, weight = text.rpartition("=")
    if not separator or Path(text).exists():
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if not 0 < value <= 1e6:
        raise OptionError(f"expected a weight > 0 in --data {text}")
    return path, value
