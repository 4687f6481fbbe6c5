"""Several data sets as the splits of one."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from ssd34.core.labels import LabelSet
from ssd34.data.dataset import Dataset
from ssd34.data.layout import WHOLE
from ssd34.data.losses import Loss
from ssd34.data.yolo_config import SPLITS as YOLO_SPLITS
from ssd34.errors import DatasetError, OptionError

UNDIVIDED = "train"
"""What a source without splits is called where a format wants a name."""


def named_splits(
    sources: Sequence[tuple[str, Dataset]], form: str, losses: Counter[Loss]
) -> list[tuple[str, Dataset]]:
    """The splits under names that the format can hold, all with the same classes."""
    if not sources:
        raise OptionError("expected at least one data set to convert, got none")
    if form == "coco" and len(sources) == 1:
        return [(WHOLE, sources[0][1])]
    named: list[tuple[str, Dataset]] = []
    for given, dataset in sources:
        name = given or UNDIVIDED
        if form == "yolo":
            name = _yolo_name(name)
            losses[Loss.SPLIT_NAMES] += given not in ("", name)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise OptionError(f"split {name!r}: expected letters, digits, '_', '-' and '.'")
        if name in dict(named):
            raise OptionError(
                f"two splits would be called {name!r}; choose with --split, or name them: "
                f"{YOLO_SPLITS[1]}=PATH"
            )
        named.append((name, dataset))
    if form == "coco":
        return named
    labels = named[0][1].labels
    _check_names(labels)
    return [(name, _with_labels(dataset, labels)) for name, dataset in named]


def _yolo_name(name: str) -> str:
    """YOLO has three splits; others are known by how they begin, as val2017 and valid."""
    for split in YOLO_SPLITS:
        if name.lower().startswith(split):
            return split
    raise OptionError(
        f"YOLO has the splits {', '.join(YOLO_SPLITS)}, got {name!r}; name it: val=PATH@{name}"
    )


def _check_names(labels: LabelSet) -> None:
    """Class names that are lines of a file and text of XML."""
    for name in labels.names:
        if not name.isprintable() or name != name.strip() or not name:
            raise DatasetError(
                f"class name {name!r}: expected text without line breaks and blanks at the ends; "
                "change it with --rename"
            )


def _with_labels(dataset: Dataset, labels: LabelSet) -> Dataset:
    """The same data set, its classes numbered as another's."""
    if dataset.labels.names == labels.names:
        return dataset
    if set(dataset.labels.names) != set(labels.names):
        other = sorted(set(dataset.labels.names) ^ set(labels.names))
        raise DatasetError(
            f"{dataset.name}: has other classes than the first split ({', '.join(other[:4])}); "
            "splits of one data set must label the same classes: convert them one by one, or "
            "use --rename"
        )
    table = dataset.labels_in(labels)
    samples = (dataclasses.replace(s, labels=table[s.labels]) for s in dataset.samples)
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))
