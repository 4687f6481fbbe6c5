"""Data sets with other classes than their files have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ssd34.core.labels import COCO_LABELS, LabelSet, numbered
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.voc import COCO_NAMES


def of_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same pictures with only some classes' boxes.

    Raises:
        OptionError: the data set has no such class.
    """
    kept = sorted({dataset.labels.label(name) for name in names})
    new_label = {label: k for k, label in enumerate(kept, start=1)}
    labels = LabelSet(
        tuple(dataset.labels.name(label) for label in kept),
        tuple(dataset.labels.category_id(label) for label in kept),
    )
    samples = []
    for sample in dataset.samples:
        some = sample.of(np.isin(sample.labels, kept))
        new = np.array([new_label[int(label)] for label in some.labels], np.int64)
        samples.append(dataclasses.replace(some, labels=new))
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))


def renamed(dataset: Dataset, names: Mapping[str, str], *, own_ids: bool = False) -> Dataset:
    """The same data set with other class names. Classes that get the same name become one.

    Category ids become COCO's if all names are COCO's then; else they stay.

    Args:
        dataset: not changed.
        names: old name to new.
        own_ids: category ids stay in any case; of classes that become one, the first's.

    Raises:
        OptionError: the data set has no such class.
    """
    for name in names:
        dataset.labels.label(name)
    new = [names.get(name, name) for name in dataset.labels.names]
    ids: dict[str, int] = {}
    for name, category in zip(new, dataset.labels.category_ids, strict=True):
        ids.setdefault(name, category)
    coco = not own_ids and set(ids) <= set(COCO_LABELS.names)
    labels = numbered(ids) if coco else LabelSet(tuple(ids), tuple(ids.values()))
    table = np.array([0, *(labels.label(name) for name in new)], np.int64)
    samples = (dataclasses.replace(s, labels=table[s.labels]) for s in dataset.samples)
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))


def with_coco_names(dataset: Dataset, *, own_ids: bool = False) -> Dataset:
    """The same data set, the classes that VOC calls otherwise under COCO's names; see `renamed`."""
    names = {old: new for old, new in COCO_NAMES.items() if old in dataset.labels.names}
    return renamed(dataset, names, own_ids=own_ids)
