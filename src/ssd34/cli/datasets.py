"""Data sets as commands open them."""

from __future__ import annotations

from ssd34.cli.console import warn, warn_of_problems
from ssd34.core.labels import LabelSet
from ssd34.data.classes import with_coco_names
from ssd34.data.dataset import Dataset
from ssd34.data.formats import open_dataset


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
    from ssd34.evaluate.metrics.coco import describe_unknown_classes

    unknown = describe_unknown_classes(labels, dataset)
    if unknown:
        warn(unknown)
