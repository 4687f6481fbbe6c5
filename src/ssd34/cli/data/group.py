"""``ssd34 data``: look at data sets and change their form."""

from __future__ import annotations

import click

from ssd34.cli.console import warn, warn_of_problems
from ssd34.cli.data.check import check_data
from ssd34.cli.data.convert import convert
from ssd34.cli.data.download import download_published
from ssd34.cli.data.info import info
from ssd34.core.labels import LabelSet
from ssd34.datasets.classes import with_coco_names
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset


@click.group(short_help="Look at data sets, check, convert and download them.")
def data() -> None:
    """Look at data sets, check, convert and download them.

    COCO, Pascal VOC and YOLO, in folders and zips. The format is recognised.
    """


for command in (info, check_data, convert, download_published):
    data.add_command(command)


def opened(path: str, *, coco_names: bool = False) -> Dataset:
    """A data set; its problems are warned of."""
    dataset = open_dataset(path)
    if coco_names:
        dataset = with_coco_names(dataset)
    warn_of_problems(dataset)
    return dataset


def warn_of_unknown_classes(dataset: Dataset, labels: LabelSet) -> None:
    """Say which of a data set's classes a model does not know, and what may help."""
    from ssd34.evaluate.metrics.coco import describe_unknown_classes

    unknown = describe_unknown_classes(labels, dataset)
    if unknown:
        warn(unknown)
