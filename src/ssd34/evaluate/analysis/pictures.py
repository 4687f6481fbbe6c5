"""How well each picture went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.analysis.matches import FOUND, NOT_COUNTED, Matching
from ssd34.evaluate.results import Results


@dataclass(frozen=True)
class Picture:
    """One picture at one score threshold, IoU 0.5.

    Attributes:
        sample: its place in the data set.
        file_name: its file.
        objects: to be found.
        found: of them.
        false_alarms: detections that found nothing.
        boxes_found: for each box of the sample, whether it was found; None for crowds.
        detections: place in the results and whether it is right, best first; those in crowds
            are left out.
    """

    sample: int
    file_name: str
    objects: int
    found: int
    false_alarms: int
    boxes_found: tuple[bool | None, ...]
    detections: tuple[tuple[int, bool], ...]

    @property
    def missed(self) -> int:
        """Objects that were not found."""
        return self.objects - self.found

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there are no objects and no detections."""
        everything = 2 * self.found + self.missed + self.false_alarms
        return 2 * self.found / everything if everything else 1.0


def rate_pictures(
    matches: Matching, dataset: Dataset, results: Results, *, score: float
) -> tuple[Picture, ...]:
    """Every picture of the data set, in its order."""
    detections: dict[int, list[int]] = {}
    chosen = np.flatnonzero((matches.status != NOT_COUNTED) & (matches.scores >= score))
    for index in chosen[np.argsort(-matches.scores[chosen], kind="stable")].tolist():
        detections.setdefault(int(results.image_ids[index]), []).append(index)
    found_at = matches.found_at(score)
    told, start = [], 0
    for place, sample in enumerate(dataset.samples):
        own = slice(start, start + len(sample.boxes))
        start = own.stop
        right = [(k, bool(matches.status[k] == FOUND)) for k in detections.get(sample.image_id, ())]
        told.append(
            Picture(
                sample=place,
                file_name=sample.file_name,
                objects=int(matches.counted[own].sum()),
                found=int((found_at & matches.counted)[own].sum()),
                false_alarms=sum(not one for _, one in right),
                boxes_found=tuple(
                    bool(found) if counted else None
                    for found, counted in zip(found_at[own], matches.counted[own], strict=True)
                ),
                detections=tuple(right),
            )
        )
    return tuple(told)


def best(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures with objects, the best first: highest F1, then most objects."""
    return sorted(
        (one for one in pictures if one.found), key=lambda one: (-one.f1, -one.found, one.sample)
    )


def worst(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures with errors, the worst first: lowest F1, then most errors."""
    return sorted(
        (one for one in pictures if one.missed or one.false_alarms),
        key=lambda one: (one.f1, -(one.missed + one.false_alarms), one.sample),
    )
