"""Data sets as commands open them."""

from __future__ import annotations

from ssd34.cli.console import warn, warn_of_problems
from ssd34.core.labels import LabelSet
from ssd34.data.classes import with_coco_names
from ssd34.data.dataset import Dataset
from ssd34.data.formats import open_dataset
from ssd34.data.voc import COCO_NAMES

_SHOWN = 8


def opened(path: str, *, coco_names: bool = False, quiet: bool = False) -> Dataset:
    """A data set; its problems are warned of."""
    dataset = open_dataset(path)
    if coco_names:
        dataset = with_coco_names(dataset)
    if not quiet:
        warn_of_problems(dataset)
    return dataset


def warn_of_unknown_classes(dataset: Dataset, labels: LabelSet) -> None:
    """Say which of a data set's classes a model does not know, and what may help."""
    unknown = [name for name in dataset.labels.names if name not in labels.names]
    if unknown and len(unknown) < len(dataset.labels.names):  # with none known it is an error
        remedy = "; for VOC's names: --coco-names" if set(unknown) & set(COCO_NAMES) else ""
        warn(
            f"{dataset.name}: the model does not know {', '.join(unknown[:_SHOWN])}"
            f"{' ...' if len(unknown) > _SHOWN else ''}, which count as missed{remedy}"
        )
