"""A run that can begin or continue: recipe, data sets, classes, network and first weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, ModelSpec, named_spec
from ssd34.datasets.dataset import Dataset
from ssd34.errors import OptionError, require
from ssd34.files.checkpoint import LAST, Checkpoint
from ssd34.files.web import download
from ssd34.network.pretrained import unfold_checkpoint
from ssd34.network.ssd import SSD
from ssd34.network.start import Start, read_start
from ssd34.text import counted
from ssd34.train.distributed import choose_local_device
from ssd34.train.examples.example import TrainingSet, make_training_sets
from ssd34.train.examples.loader import count_batches
from ssd34.train.options import TrainOptions, write_setting
from ssd34.train.progress import SILENT, TrainListener
from ssd34.train.recipe import (
    Recipe,
    SettledRecipe,
    resume_note,
    resume_options,
    settle_recipe,
)
from ssd34.train.run import NOTE_MEASURE_START, read_run_to_resume
from ssd34.train.step import computes_bf16
from ssd34.version import __version__
from ssd34.workflows.training.job import (
    OpenedData,
    PreparedRun,
    TrainJob,
    is_first_process,
    locate_backbone,
    locate_start,
    read_settings,
    split_start,
)
from ssd34.workflows.training.qat import apply_qat, calibrate_steps
from ssd34.zoo.names import IMAGENET_BACKBONES, name_backbone

USUAL_SPEC = "ssd300-resnet34"


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """A new run of which everything is settled, before there is a network."""

    recipe: Recipe
    plan: SettledRecipe
    start: Start
    spec: ModelSpec
    labels: LabelSet
    sources: Sequence[TrainingSet]
    validation: Dataset


def begin_run(job: TrainJob, data: OpenedData, listener: TrainListener) -> PreparedRun:
    """A new run with its first weights.

    Raises:
        OptionError: settings do not go together.
        DatasetError: a data set cannot be used.
        CheckpointError: there are no first weights in ``init``, or those of another network.
    """
    planned = plan_run(job, data, listener)
    plan, labels, sources = planned.plan, planned.labels, planned.sources
    torch.manual_seed(plan.options.seed)
    network = SSD(planned.spec)
    origin = planned.start.put_into(network, labels)
    notes = {
        "command": job.command, "start": origin, "recipe": plan.to_dict(), "version": __version__,
        NOTE_MEASURE_START: planned.start.kind == "detector",
    }  # fmt: skip
    if job.qat and is_first_process():  # the other processes get its weights and steps
        notes[NOTE_INT8_STEPS] = calibrate_steps(network, labels, sources, listener)
    return PreparedRun(
        network=network,
        labels=labels,
        options=plan.options,
        sources=sources,
        validation=planned.validation,
        origin=origin,
        notes=notes,
        warnings=[*list_warnings(plan.options, sources, start=planned.start, spec=planned.spec)],
        facts=[*_list_facts(planned)],
    )


def plan_run(job: TrainJob, data: OpenedData, listener: TrainListener) -> Planned:
    """Settle a new run; errors as of `begin_run`."""
    given, recipe = read_settings(job)
    start = find_start(given.get("init", recipe.settings.get("init")), listener)
    plan = settle_recipe(
        recipe, apply_qat(given, start) if job.qat else given, start=start.kind,
        bf16=computes_bf16(choose_device(job.device)), folded=start.folded,
    )  # fmt: skip
    if job.qat and plan.options.small_size:
        raise OptionError(
            "--qat: the ranges are those of the full input size; leave small_size out"
        )
    labels = choose_classes(plan.settings["labels"], [dataset for dataset, _ in data.training])
    spec, plan = choose_spec(plan, start, labels)
    if (plan.options.small_size or 0) > spec.image_size:
        raise OptionError(
            f"small_size={plan.options.small_size}: expected at most {spec.image_size}, the "
            f"input size of {spec.name}"
        )
    return Planned(
        recipe=recipe, plan=plan, start=start, spec=spec, labels=labels,
        sources=make_training_sets(data.training, labels, balance=plan.options.balance),
        validation=data.validation,
    )  # fmt: skip


def find_start(init: str | None, listener: TrainListener = SILENT) -> Start:
    """The first weights; ImageNet backbones are fetched by name."""
    if init is None:
        return Start()
    path = locate_start(init)
    file = IMAGENET_BACKBONES.get(path.stem)
    if file and path == locate_backbone(file.name):
        download(file, path, progress=lambda have: listener.downloaded(file.name, have, file.size))
    is_onnx = path.suffix.lower() == ".onnx"
    start = Start(str(path), detector=read_onnx_checkpoint(path)) if is_onnx else read_start(path)
    return start.backbone_alone if split_start(init)[1] else start


def read_onnx_checkpoint(path: Path) -> Checkpoint:
    """The float network in an ONNX file, to be trained further."""
    require("onnx", extra="export", why="reading weights from an ONNX file")
    from ssd34.deploy.graph.read import read_network

    network = read_network(path)
    convs = {
        layer.name: (layer.conv.weight, layer.conv.bias) for layer in network.layers if layer.conv
    }
    return unfold_checkpoint(network.spec, network.labels, convs, scores=network.score_calibration)


def choose_classes(choice: str, datasets: Sequence[Dataset]) -> LabelSet:
    """COCO's classes, or those of the data; ``auto``: COCO's if the data has them all."""
    names = list(dict.fromkeys(name for dataset in datasets for name in dataset.labels.names))
    if choice == "coco" or (choice == "auto" and set(names) == set(COCO_LABELS.names)):
        return COCO_LABELS
    if len(datasets) == 1:
        return datasets[0].labels
    return LabelSet.from_names(names)


def choose_spec(
    plan: SettledRecipe, start: Start, labels: LabelSet
) -> tuple[ModelSpec, SettledRecipe]:
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


def choose_device(choice: str) -> torch.device:
    """The torch device; of several processes each has its own."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise OptionError("--device cuda: no CUDA device is available here; use --device cpu")
    return choose_local_device(torch.device("cuda" if available and choice != "cpu" else "cpu"))


def find_untrained_levels(spec: ModelSpec, options: TrainOptions) -> str | None:
    """A warning of levels whose feature map vanishes at `small_size`, which the network that is
    shipped has; None where all are trained."""
    small = options.small_size
    if small is None or options.small_share == 0:
        return None
    levels, left = len(spec.steps), len(spec.at_size(small).steps)
    if left >= levels:
        return None
    enough = next(side for side in range(small, 2 * spec.image_size)
                  if len(spec.at_size(side).steps) == levels)  # fmt: skip
    lacks = (
        f"at {small} pixels the network has only {left} of its {levels} levels: the default boxes "
        "for the largest objects"
    )
    if options.small_share == 1:
        return (
            f"{lacks} are never trained; give --set small_size={enough} or more, or a "
            "small_share below 1"
        )
    return (
        f"{lacks} are not trained in the first {options.small_share:.0%} of the run; from "
        f"--set small_size={enough} on they are"
    )


def list_warnings(
    options: TrainOptions, sources: Sequence[TrainingSet], *, start: Start, spec: ModelSpec
) -> Iterator[str]:
    """A line on each setting that fits the run badly."""
    if start.kind == "random":
        yield (
            "start: random weights; from few pictures far more is learned with --init "
            f"{name_backbone(spec.backbone)}, an ImageNet backbone, or --recipe fine-tune, from a "
            "detector"
        )

    for source in sources:
        left_out = len(source.dataset) - len(source.usable)
        if left_out:
            yield (
                f"{source.dataset.name}: {left_out} of {counted(len(source.dataset), 'picture')} "
                "have no box to learn from and are left out"
            )

    if options.epochs is not None:
        steps = options.epochs * count_batches(sources, options.batch_size)
        # The rate falls while it still climbs, and does not come near its peak.
        if options.warmup_steps > max(1, steps // 2):
            yield (
                f"{options.warmup_steps} steps of warm-up in a run of {counted(steps, 'step')}: "
                "the learning rate does not come near its peak; try more epochs or --set "
                f"warmup_steps={max(1, steps // 10)}"
            )


def _list_facts(planned: Planned) -> Iterator[str]:
    """The recipe as it was settled, what was changed first."""
    plan = planned.plan
    yield f"recipe {plan.recipe}: {planned.recipe.about}"
    changed = [f"{key}={write_setting(plan.settings[key])}" for key in plan.changed]
    if changed:
        yield f"  changed: {' '.join(changed)}"
    others = {k: v for k, v in plan.settings.items() if k not in plan.changed}
    yield f"  {' '.join(f'{key}={write_setting(value)}' for key, value in others.items())}"


def resume_run(job: TrainJob, data: OpenedData) -> PreparedRun:
    """The run as it continues. CheckpointError: there is no run that could continue. OptionError:
    something cannot change, or the new length is not allowed."""
    begun = read_run_to_resume(job.folder / LAST)
    notes = begun.state["notes"]
    options = resume_options(TrainOptions.from_dict(begun.state["options"]), job.given)
    note = resume_note(notes.get("recipe", {}), options, job.given)
    return PreparedRun(
        network=SSD(begun.spec), labels=begun.labels, options=options,
        sources=make_training_sets(data.training, begun.labels, balance=options.balance),
        validation=data.validation, origin="resumed", notes={**notes, "recipe": note},
        begun_at=begun.state["step"],
    )  # fmt: skip
