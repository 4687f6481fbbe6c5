"""What a training is told, and a run that can begin or continue. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset, Layout
from ssd34.datasets.open import choose_part, find_dataset, split_path
from ssd34.errors import CheckpointError, ModelError, OptionError, TrainingError
from ssd34.files.cache import cache_folder
from ssd34.files.checkpoint import read_header
from ssd34.train.progress import TrainListener
from ssd34.workflows.outputs import check_kinds
from ssd34.zoo.names import EMBEDDED, IMAGENET_BACKBONES, PUBLISHED, model_path

if TYPE_CHECKING:
    from ssd34.network.ssd import SSD
    from ssd34.train.examples.example import TrainingSet
    from ssd34.train.options import TrainOptions
    from ssd34.train.recipe import Recipe

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
    recipe: str | Path | None = None
    init: str | Path | None = None
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
        if not self.sources:
            raise OptionError("expected a data set to learn from, got none")
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
        given = {**self.settings, **{k: v for k, v in named.items() if v is not None}}
        return {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """A run that can begin or continue.

    Attributes:
        network: with its first weights; those of a resumed run are still to be read.
        sources, validation: what to learn from and to measure on.
        origin: where the first weights come from, in words.
        notes: what its checkpoints say of it. The int8 steps that its network rounds by are left to
            the first process to find.
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
    begun_at: int | None = None
    warnings: Sequence[str] = ()
    facts: Sequence[str] = ()


def is_first_process() -> bool:
    """Whether this process writes and reports; of those that torchrun starts only one does."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return alone or int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedData:
    """The data sets to learn from, each with its weight, and the one to measure on."""

    training: Sequence[tuple[Dataset, float]]
    validation: Dataset


def open_data(
    job: TrainJob, listener: TrainListener, *, found: Callable[[], None] = lambda: None
) -> OpenedData:
    """Open the data sets of a run, once all is checked that needs no torch, which takes seconds to
    load. `found` is called before they are read.

    Raises:
        OptionError: a setting is not allowed, the folder holds another run, or a run that is
            resumed cannot have one of the settings.
        CheckpointError: there is no file of that name in ``init``, or no run to resume.
        ModelError: ``init`` is a data set.
        TrainingError: there is no run to resume.
        DatasetError: a data set cannot be used.
    """
    weighted_paths = [weighted(text) for text in job.sources]
    paths = [*(path for path, _ in weighted_paths), str(job.val)]
    from ssd34.files.checkpoint import LAST

    if job.resume:
        check_resumable(job)
        notes = read_header(job.folder / LAST).state.get("notes", {})
        coco_names = was_told(notes, "coco_names")
    else:
        _check_empty(job.folder)
        given, recipe = read_settings(job)
        settings = {**recipe.settings, **given}
        init = settings.get("init")
        check_kinds(models=() if init is None else [split_start(init)[0]], data=paths)
        if init is not None:
            locate_start(init)
        coco_names = settings.get("coco_names", False)

    def opened(layout: Layout, split: str | None) -> Dataset:
        dataset = choose_part(layout.open(split), coco_names=coco_names)
        listener.dataset_opened(dataset)
        return dataset

    layouts = [(find_dataset(path), split) for path, split in map(split_path, paths)]
    found()
    *training, validation = [opened(layout, split) for layout, split in layouts]
    weights = (weight for _, weight in weighted_paths)
    return OpenedData(training=[*zip(training, weights, strict=True)], validation=validation)


def read_settings(job: TrainJob) -> tuple[dict[str, Any], Recipe]:
    """What a new run was given, and the recipe for the rest. OptionError: no such recipe, or a
    setting is not allowed."""
    from ssd34.train.options import check_setting
    from ssd34.train.recipe import RECIPES, read_recipe

    given = {key: check_setting(key, value) for key, value in job.given.items()}
    return given, read_recipe(str(job.recipe or next(iter(RECIPES))))


def split_start(init: str) -> tuple[str, bool]:
    """A file or name of first weights, and whether only their backbone is meant."""
    name, at, part = init.rpartition("@")
    if at and part in ("backbone", "trunk"):  # its name in former versions
        return name, True
    return init, False


def locate_start(init: str) -> Path:
    """The file of a run's first weights. That of an ImageNet backbone may still have to be fetched,
    any other is there, or a CheckpointError. ModelError: a published file is not on this
    machine."""
    init, _ = split_start(init)
    path = Path(init)
    if init in EMBEDDED:
        # Training needs the weights that the int8 file was made from.
        return model_path("default-float")
    if os.path.exists(path):
        if path.is_dir():
            raise CheckpointError(
                f"--init {init}: is a folder; expected a file, such as best.safetensors of a run"
            )
        return path
    if init in IMAGENET_BACKBONES:
        return locate_backbone(IMAGENET_BACKBONES[init].name)
    if init in PUBLISHED:
        try:
            return model_path(init)
        except ModelError as error:
            raise ModelError(
                f"{error}; or start from what comes with the package: --init default"
            ) from None
    names = ", ".join([*EMBEDDED, *PUBLISHED, *IMAGENET_BACKBONES])
    raise CheckpointError(
        f"--init {init}: no such file; expected a checkpoint, an ONNX file, or one of {names}"
    )


def locate_backbone(name: str) -> Path:
    """Where a file of ImageNet's weights lies once it is fetched."""
    return cache_folder() / "trunks" / name


def _check_empty(folder: Path) -> None:
    """A new run does not overwrite the weights of another one."""
    from ssd34.files.checkpoint import BEST, LAST

    if (folder / LAST).exists():
        raise OptionError(
            f"{folder}: already holds a run; add --resume to continue it, or choose another folder"
        )
    if (folder / BEST).exists() and not _is_start(folder / BEST):
        raise OptionError(
            f"{folder}: holds {BEST} of another run, which this one would replace; choose another "
            "folder"
        )


def _is_start(best: Path) -> bool:
    """Whether it is what a run began with that died before its first checkpoint."""
    try:
        return read_header(best).state.get("step") == 0
    except CheckpointError:
        return False


def check_resumable(job: TrainJob, *, others: Sequence[str] = ()) -> None:
    """Only the length, workers, device, threads and the cache may be given, and no `others`.
    OptionError: something else was given. TrainingError: there is no run."""
    from ssd34.files.checkpoint import LAST
    from ssd34.train.options import RESUMED, write_setting

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


def weighted(text: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT; a path that itself holds '=' is fine."""
    path, separator, weight = text.rpartition("=")
    if not separator or os.path.exists(text):
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    if not 0 < value <= 1e6:
        raise OptionError(f"expected a weight above 0 and up to 1e6 in --data {text}")
    return path, value


def was_told(notes: Mapping[str, Any], key: str) -> bool:
    """Whether a run has a setting, which was an option in former versions."""
    settings = notes.get("recipe", {}).get("settings", {})
    option = f"--{key.replace('_', '-')}"
    return bool(settings.get(key, option in notes.get("command", "").split()))
