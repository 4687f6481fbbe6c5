"""What ``ssd34 train`` was told, turned into data sets, classes, first weights and a device."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from ssd34.cli.data.group import open_warned
from ssd34.cli.train.qat import calibrated_steps, check_options, settings_of_qat
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, ModelSpec, named_spec
from ssd34.datasets.dataset import Dataset
from ssd34.errors import OptionError, require
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.files.checkpoint import Checkpoint
    from ssd34.network.ssd import SSD
    from ssd34.network.start import Start
    from ssd34.train.examples.example import TrainingSet
    from ssd34.train.settings.options import TrainOptions
    from ssd34.train.settings.recipe import Plan, Recipe

USUAL_SPEC = "ssd300-resnet34"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A run that can begin or go on.

    Attributes:
        network: with its first weights; those of a resumed run are still to be read.
        labels: its classes.
        options: the settings.
        sources: what to learn from.
        validation: what to measure on.
        origin: where the first weights come from, in words.
        notes: for its checkpoints.
        steps: the int8 steps that its network rounds by; None: it does not, or in a process that
            leaves finding them to the first.
        tensorboard: whether to write TensorBoard's events.
        begun_at: the step from which a resumed run goes on; None: it is new.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """A new run of which everything is settled, before there is a network."""

    plan: Plan
    start: Start
    spec: ModelSpec
    labels: LabelSet
    sources: Sequence[TrainingSet]
    validation: Dataset


class TrainCommand(click.Command):
    """A command whose former options name the settings that took their place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; args: what follows the command's name."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from ssd34.train.settings.settings import SETTINGS, setting_of_option

            option = error.option_name
            key = setting_of_option(option)
            if key is None:
                raise
            if bool in (SETTINGS[key], *get_args(SETTINGS[key])):
                value = "false" if option.startswith("--no-") else "true"
            else:
                at = next(n for n, text in enumerate(given) if text.split("=")[0] == option)
                value = "".join(given[at].split("=", 1)[1:] or given[at + 1 : at + 2]) or "VALUE"
            raise OptionError(f"{option} is a setting now: --set {key}={value}") from None


def settings_given(flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that were given, by their own options and by ``--set``.

    Raises:
        OptionError: one was given twice, is unknown or has a value that it does not take.
    """
    from ssd34.train.settings.settings import checked, parsed_setting

    given = {name: checked(name, value) for name, value in flags.items() if value is not None}
    for text in assignments:
        key, value = parsed_setting(text)
        if key in given:
            raise OptionError(f"expected {key} once, got it again as --set {text}")
        given[key] = value
    return given


def open_data(
    data: Sequence[str], val: str, *, coco_names: bool, quiet: bool
) -> tuple[Sequence[tuple[Dataset, float]], Dataset]:
    """The data sets to learn from, each with its weight, and the one to measure on."""
    datasets = [
        (open_warned(path, coco_names=coco_names, quiet=quiet), weight)
        for path, weight in map(weighted, data)
    ]
    return datasets, open_warned(val, coco_names=coco_names, quiet=quiet)


def plan_run(
    given: Mapping[str, Any],
    *,
    recipe: Recipe,
    data: Sequence[str],
    val: str,
    device: Any,
    qat: bool,
    quiet: bool,
) -> Planned:
    """Settle a new run.

    Raises:
        OptionError: a setting is not allowed.
        DatasetError: a data set cannot be used.
        CheckpointError: there are no first weights in ``init``.
    """
    from ssd34.train.examples.example import training_sets
    from ssd34.train.settings.recipe import resolved
    from ssd34.train.step import computes_bf16

    start = start_from(given.get("init", recipe.settings.get("init")))
    plan = resolved(
        recipe,
        settings_of_qat(given, start) if qat else given,
        start=start.kind,
        bf16=computes_bf16(device),
        folded=start.folded,
    )
    if qat:
        check_options(plan.options)
    datasets, validation = open_data(data, val, coco_names=plan.settings["coco_names"], quiet=quiet)
    labels = classes(plan.settings["labels"], [dataset for dataset, _ in datasets])
    spec, plan = network_spec(plan, start, labels)
    sources = training_sets(datasets, labels, balance=plan.options.balance)
    return Planned(
        plan=plan, start=start, spec=spec, labels=labels, sources=sources, validation=validation
    )


def new_run(planned: Planned, *, qat: bool) -> Prepared:
    """A new run with its first weights.

    Args:
        planned: it.
        qat: whether to find the steps that its network rounds by.

    Raises:
        CheckpointError: the first weights belong to another network.
    """
    import torch

    from ssd34.network.ssd import SSD

    torch.manual_seed(planned.plan.options.seed)
    network = SSD(planned.spec)
    origin = planned.start.put_into(network, planned.labels)
    return Prepared(
        network=network,
        labels=planned.labels,
        options=planned.plan.options,
        sources=planned.sources,
        validation=planned.validation,
        origin=origin,
        notes={
            "command": shlex.join(sys.argv[1:]), "start": origin,
            "recipe": planned.plan.to_dict(), "version": __version__,
        },
        steps=calibrated_steps(network, planned.labels, planned.sources) if qat else None,
        tensorboard=planned.plan.settings["tensorboard"],
    )  # fmt: skip


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


BACKBONE_ALONE = ("backbone", "trunk")
"""Behind a detector and @: only its backbone, which was called trunk before."""


def check_empty(folder: Path) -> None:
    """A new run does not overwrite the weights of another one.

    Raises:
        OptionError: the folder holds some.
    """
    from ssd34.train.run import BEST, LAST

    if (folder / LAST).exists():
        raise OptionError(
            f"{folder}: already holds a run; add --resume to go on with it, or choose "
            "another folder"
        )
    if (folder / BEST).exists():
        raise OptionError(
            f"{folder}: holds {BEST} of another run, which this one would replace; choose another "
            "folder"
        )


def start_from(init: str | None) -> Start:
    """The first weights; ImageNet backbones are fetched by name."""
    from ssd34.cli.models import fetch
    from ssd34.files.cache import cache_folder
    from ssd34.network.start import Start, read_start
    from ssd34.zoo.catalogue import IMAGENET_BACKBONES
    from ssd34.zoo.names import EMBEDDED, model_path

    if init is None:
        return Start()
    detector, at, part = init.rpartition("@")
    if at and part in BACKBONE_ALONE:
        return start_from(detector).backbone_alone
    path = Path(init)
    if init in IMAGENET_BACKBONES and not path.exists():
        file = IMAGENET_BACKBONES[init]
        path = cache_folder() / "trunks" / file.name
        fetch(file, path)
    elif init in EMBEDDED:
        # Training needs the weights that the int8 file was made from.
        path = model_path("default-float")
    if path.suffix.lower() == ".onnx":
        return Start(str(path), detector=checkpoint_from_onnx(path))
    return read_start(path)


def checkpoint_from_onnx(path: Path) -> Checkpoint:
    """The float network in an ONNX file, to be trained further.

    Raises:
        ModelError: missing, broken, computing in int8, or not a network of this family.
    """
    require("onnx", extra="export", why="reading weights from an ONNX file")
    from ssd34.deploy.graph.read import read_network
    from ssd34.network.from_onnx import unfolded_checkpoint

    network = read_network(path)
    convs = {
        layer.name: (layer.conv.weight, layer.conv.bias) for layer in network.layers if layer.conv
    }
    return unfolded_checkpoint(
        network.spec, network.labels, convs, scores=network.score_calibration
    )


def classes(choice: str, datasets: Sequence[Dataset]) -> LabelSet:
    """COCO's classes, or those of the data; ``auto``: COCO's if the data has them all."""
    names = list(dict.fromkeys(name for dataset in datasets for name in dataset.labels.names))
    if choice == "coco" or (choice == "auto" and set(names) == set(COCO_LABELS.names)):
        return COCO_LABELS
    if len(datasets) == 1:
        return datasets[0].labels
    return LabelSet.from_names(names)


def network_spec(plan: Plan, start: Start, labels: LabelSet) -> tuple[ModelSpec, Plan]:
    """The network of a new run, and the plan with everything about it settled."""
    name, norm = plan.settings["spec"], plan.settings["head_norm"]
    spec = start.spec or named_spec(USUAL_SPEC)
    if name != "auto":
        spec = named_spec(name).replace(head_norm=spec.head_norm)
    if norm != "auto" or start.detector is None:
        spec = spec.replace(head_norm=True if norm == "auto" else norm)
    spec = spec.replace(num_classes=len(labels))
    settled = {
        "spec": spec.name if spec.name in SPECS else "auto",
        "head_norm": spec.head_norm,
        "labels": "coco" if labels == COCO_LABELS else "data",
    }
    return spec, dataclasses.replace(plan, settings={**plan.settings, **settled})


def device_named(torch: Any, choice: str) -> Any:
    """The torch device; of several processes each has its own."""
    from ssd34.train.distributed import local_device

    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise OptionError("--device cuda: no CUDA device is available here; use --device cpu")
    return local_device(torch.device("cuda" if available and choice != "cpu" else "cpu"))
