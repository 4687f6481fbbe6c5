"""Detections of many pictures in COCO's results form, as columns: 56 bytes a detection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xywh_from_xyxy
from ssd34.core.postprocess import Picked
from ssd34.data.dataset import Dataset, Sample

Result = dict[str, Any]
"""One detection in COCO's results form: image_id, category_id, bbox (xywh, pixels), score."""


@dataclass(frozen=True, eq=False)
class Results(Sequence[Result]):
    """A sequence of `Result`, each made when it is asked for.

    Attributes:
        image_ids: (N,) int64.
        category_ids: (N,) int64, the data set's own.
        boxes_xywh: (N, 4) float64, pixels.
        scores: (N,) float64.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, results: Sequence[Mapping[str, Any]]) -> Results:
        """Any sequence in COCO's form as columns."""
        if isinstance(results, Results):
            return results
        return cls(
            np.array([result["image_id"] for result in results], np.int64),
            np.array([result["category_id"] for result in results], np.int64),
            np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4),
            np.array([result["score"] for result in results], np.float64),
        )

    @classmethod
    def joined(cls, parts: Iterable[Results]) -> Results:
        """One after the other."""
        kept = [part for part in parts if len(part)]
        if not kept:
            return cls.of([])
        return cls(
            np.concatenate([part.image_ids for part in kept]),
            np.concatenate([part.category_ids for part in kept]),
            np.concatenate([part.boxes_xywh for part in kept]),
            np.concatenate([part.scores for part in kept]),
        )

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> Result | Results:
        if isinstance(index, slice):
            return self._at(index)
        return Result(
            image_id=int(self.image_ids[index]),
            category_id=int(self.category_ids[index]),
            bbox=self.boxes_xywh[index].tolist(),
            score=float(self.scores[index]),
        )

    def where(self, mask: NDArray[np.bool_]) -> Results:
        """Only those for which (N,) `mask` holds."""
        return self._at(mask)

    def within(self, dataset: Dataset) -> Results:
        """Only those of a data set's pictures and classes."""
        pictures = [sample.image_id for sample in dataset.samples]
        known = np.isin(self.image_ids, pictures)
        return self.where(known & np.isin(self.category_ids, dataset.labels.category_ids))

    def with_image_ids(self, new: Mapping[int, int]) -> Results:
        """Under other image ids.

        Args:
            new: by the present ones.
        """
        return Results(
            np.array([new[image_id] for image_id in self.image_ids.tolist()], np.int64),
            self.category_ids,
            self.boxes_xywh,
            self.scores,
        )

    def as_array(self) -> NDArray[np.float64]:
        """(N, 7) float64: image id, x, y, width, height, score, category id; pycocotools' form."""
        columns = (self.image_ids, *self.boxes_xywh.T, self.scores, self.category_ids)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)

    def _at(self, index: slice | NDArray[np.bool_]) -> Results:
        return Results(
            self.image_ids[index],
            self.category_ids[index],
            self.boxes_xywh[index],
            self.scores[index],
        )


def coco_results(picked: Picked, *, sample: Sample, categories: NDArray[np.int64]) -> Results:
    """Detections of one picture in COCO's results form, in the data set's own category ids.

    Args:
        picked: in fractions of the picture.
        sample: the picture.
        categories: (network classes + 1,) int64: category id of each network label, -1 where
            the data set does not have the class; such detections are left out.
    """
    size = np.array([sample.width, sample.height] * 2, np.float64)
    boxes = xywh_from_xyxy(np.clip(picked.boxes.astype(np.float64), 0, 1) * size)
    found = categories[picked.labels]
    known = found >= 0
    return Results(
        np.full(int(known.sum()), sample.image_id, np.int64),
        found[known],
        boxes[known].astype(np.float64),
        picked.scores[known].astype(np.float64),
    )
