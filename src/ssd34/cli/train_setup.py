"""What ``ssd34 train`` was told, turned into data sets, classes, first weights and a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, ModelSpec, named_spec
from ssd34.data.dataset import Dataset
from ssd34.errors import OptionError, require

if TYPE_CHECKING:
    from ssd34.data.checkpoint import Checkpoint
    from ssd34.train.recipe import Plan
    from ssd34.train.start import Start

USUAL_SPEC = "ssd300-resnet34"


def settings_given(flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that were given, by their own options and by ``--set``.

    Raises:
        OptionError: one was given twice, is unknown or of the wrong type.
    """
    from ssd34.train.settings import parsed_setting

    given = {name: value for name, value in flags.items() if value is not None}
    for text in assignments:
        key, value = parsed_setting(text)
        if key in given:
            raise OptionError(f"expected {key} once, got it again as --set {text}")
        given[key] = value
    return given


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


TRUNK_ALONE = "@trunk"
"""After a detector: only its trunk."""


def start_from(init: str | None) -> Start:
    """The first weights; ImageNet trunks are fetched by name."""
    from ssd34.cli.fetch import fetch
    from ssd34.runtime.detector import EMBEDDED, model_path
    from ssd34.train.start import Start, read_start
    from ssd34.zoo.cache import cache_folder
    from ssd34.zoo.trunks import IMAGENET_TRUNKS

    if init is None:
        return Start()
    if init.endswith(TRUNK_ALONE):
        return start_from(init.removesuffix(TRUNK_ALONE)).trunk_alone
    path = Path(init)
    if init in IMAGENET_TRUNKS and not path.exists():
        file = IMAGENET_TRUNKS[init]
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
    from ssd34.deploy.read_network import read_network
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
