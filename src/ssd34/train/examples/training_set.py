"""Data sets to learn from: their classes as the network's, and how often each picture is shown."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset
from ssd34.errors import DatasetError


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A data set, how often to draw from it, and its labels as the network's.

    Attributes:
        dataset: pictures and boxes.
        weight: draws per picture and epoch.
        labels: (data set classes + 1,) int64, the network's label of each.
        labelled: (network classes + 1,) bool, background included.
        usable: indices of the pictures that have something to learn.
        frequency: how often each of them is drawn, in relation to the others.
    """

    dataset: Dataset
    weight: float
    labels: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    usable: NDArray[np.int64]
    frequency: NDArray[np.float64]


def training_sets(
    datasets: Sequence[tuple[Dataset, float]], target: LabelSet, *, balance: float = 0.0
) -> list[TrainingSet]:
    """Prepare data sets, each with its weight, for a network with the classes `target`.

    Classes that no data set labels are taught as background everywhere: left out of every loss
    they would keep their first, meaningless scores.

    Args:
        datasets: the sets and their draws per picture and epoch.
        target: the network's classes.
        balance: see `frequencies`.

    Raises:
        DatasetError: the network lacks a class, or a set has no picture with a box to learn.
    """
    sources = [_training_set(dataset, weight, target, balance) for dataset, weight in datasets]
    taught = np.any([source.labelled for source in sources], axis=0)
    return [dataclasses.replace(source, labelled=source.labelled | ~taught) for source in sources]


def _training_set(dataset: Dataset, weight: float, target: LabelSet, balance: float) -> TrainingSet:
    labels = dataset.labels_in(target)
    labelled = np.zeros(len(target) + 1, np.bool_)
    labelled[labels] = True
    usable = [i for i, sample in enumerate(dataset.samples) if (~sample.ignored).any()]
    if not usable:
        raise DatasetError(f"{dataset.name}: no picture has a box to learn from")
    shown = [set(sample.labels[~sample.ignored].tolist()) for sample in dataset.samples]
    return TrainingSet(
        dataset,
        weight,
        labels,
        labelled,
        np.array(usable),
        frequencies([shown[i] for i in usable], balance),
    )


def frequencies(shown: Sequence[set[int]], balance: float) -> NDArray[np.float64]:
    """How often to draw each picture, in relation to the others.

    That of its rarest class: max(1, sqrt(`balance` / share of the pictures that show the class)).
    Source: Gupta et al., LVIS, 2019, repeat factor sampling.

    Args:
        shown: each picture's classes, at least one.
        balance: classes that fewer than this share of the pictures show are drawn more often.
    """
    counts = Counter(label for labels in shown for label in labels)
    rarest = np.array([min(counts[label] for label in labels) for labels in shown])
    return np.sqrt(np.maximum(1.0, balance * len(shown) / rarest))


def draws_of(source: TrainingSet) -> int:
    """Pictures that an epoch draws from a data set; at least one."""
    return max(1, round(len(source.usable) * source.weight))
