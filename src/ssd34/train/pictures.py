"""Which pictures a run learns from and is measured on, so that it goes on with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ssd34.core.counted import counted
from ssd34.data.dataset import Dataset
from ssd34.data.fingerprint import fingerprint
from ssd34.train.training_set import TrainingSet

Pictures = Mapping[str, Any]
"""``training``: a list, and ``validation``: of data sets, each with name, pictures, weight and
fingerprint. JSON-ready."""


def pictures_of(sources: Sequence[TrainingSet], validation: Dataset) -> Pictures:
    """What a run's checkpoints say of its data."""
    return {
        "training": [_of(source.dataset, source.weight) for source in sources],
        "validation": _of(validation, 1.0),
    }


def other_pictures(was: Pictures, now: Pictures) -> str | None:
    """What a run learned from or was measured on, and what it is to be now, where they differ."""
    pairs = [("--data", *pair) for pair in zip_longest(was["training"], now["training"])]
    pairs.append(("--val", was["validation"], now["validation"]))
    return next(
        (
            f"{option} {_written(before)}, now it is {_written(after)}"
            for option, before, after in pairs
            if _key(before) != _key(after)
        ),
        None,
    )


def _of(dataset: Dataset, weight: float) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "pictures": len(dataset),
        "weight": weight,
        "fingerprint": fingerprint(dataset),
    }


def _key(one: Mapping[str, Any] | None) -> Any:
    """What has to be the same; a data set may have moved."""
    return one and (one["fingerprint"], one["weight"])


def _written(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "nothing"
    weight = "" if one["weight"] == 1 else f", weight {one['weight']:g}"
    # Where only boxes differ, nothing else would show it.
    return (
        f"{one['name']} ({counted(one['pictures'], 'picture')}{weight}, {one['fingerprint'][:8]})"
    )
