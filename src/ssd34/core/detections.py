"""Detections: what was found in one picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import clip, cxcywh_from_xyxy, xywh_from_xyxy
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import Picked
from ssd34.errors import require

if TYPE_CHECKING:
    import pandas
    import supervision

Rows = slice | Sequence[int] | NDArray[np.bool_] | NDArray[np.integer[Any]]
"""Which of N objects: a slice, an (N,) mask, or (M,) indices, negative ones from the end."""

_SHOWN = 6
"""Objects that a `Detections` names where it is printed."""

CSV_HEADER = "file,label,name,score,left,top,right,bottom"


class Detection(NamedTuple):
    """One object: box xyxy in pixels, label 1..N, its name, score 0..1."""

    box: tuple[float, float, float, float]
    label: int
    name: str
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one picture, best first.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the original picture, within it.
        labels: (N,) int64, 1..classes.
        scores: (N,) float32, 0..1.
        label_set: the classes.
        width, height: of the picture, pixels.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    label_set: LabelSet
    width: int
    height: int

    @classmethod
    def from_picked(
        cls, picked: Picked, *, label_set: LabelSet, width: int, height: int, score: float = 0.0
    ) -> Self:
        """Detections in fractions of a picture, to pixels, with at least a score."""
        kept = np.flatnonzero(picked.scores >= score)
        kept = kept[np.argsort(-picked.scores[kept], kind="stable")]
        scale = np.array([width, height, width, height], np.float32)
        boxes = clip(picked.boxes[kept] * scale, width=width, height=height)
        return cls(boxes, picked.labels[kept], picked.scores[kept], label_set, width, height)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, label, name, score in zip(
            self.boxes.tolist(), self.labels.tolist(), self.names, self.scores.tolist(), strict=True
        ):
            yield Detection(tuple(box), label, name, score)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: Rows) -> Self: ...

    def __getitem__(self, index: int | np.integer[Any] | Rows) -> Detection | Self:
        """One object, as iteration gives it, for an integer; `Detections` for `Rows`.

        Raises:
            IndexError: there is no such object, or a mask has another length.
            TypeError: the index is something else.
        """
        if isinstance(index, int | np.integer):
            label = int(self.labels[index])
            box, score = tuple(self.boxes[index].tolist()), float(self.scores[index])
            return Detection(box, label, self.label_set.name(label), score)
        rows = index if isinstance(index, slice) else _rows(index)
        boxes, labels, scores = self.boxes[rows], self.labels[rows], self.scores[rows]
        return replace(self, boxes=boxes, labels=labels, scores=scores)

    def __repr__(self) -> str:
        listed = ", ".join(f"{found.name} {found.score:.2f}" for found in self[:_SHOWN])
        more = ", ..." * (len(self) > _SHOWN)
        size = f"{self.width} x {self.height} pixels"
        return f"<{type(self).__name__}: {len(self)} in {size}: {listed}{more}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.label_set.name(int(label)) for label in self.labels)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Only the objects for which the mask (N,) holds; IndexError if it has another length."""
        return self[mask]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: width, height, and detections with box (xyxy), label, name, score."""
        return {
            "width": self.width,
            "height": self.height,
            "detections": [
                {
                    "name": found.name,
                    "label": found.label,
                    "score": round(found.score, 5),
                    "box": [round(value, 2) for value in found.box],
                }
                for found in self
            ],
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id (the official sparse id), bbox (xywh), score."""
        return [
            {
                "image_id": image_id,
                "category_id": self.label_set.category_id(found.label),
                "bbox": [round(float(value), 2) for value in box_xywh],
                "score": round(found.score, 5),
            }
            for found, box_xywh in zip(self, xywh_from_xyxy(self.boxes), strict=True)
        ]

    def to_csv(self, file: str) -> str:
        """Lines in the columns of `CSV_HEADER`, without the header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for found in self:
            box = [f"{value:.2f}" for value in found.box]
            writer.writerow([file, found.label, found.name, f"{found.score:.5f}", *box])
        return text.getvalue()

    def to_yolo(self) -> str:
        """YOLO text: class index from 0, centre x, centre y, width, height as shares, score."""
        size = np.array([self.width, self.height] * 2, np.float32)
        boxes_cxcywh = cxcywh_from_xyxy(self.boxes / size)
        return "".join(
            f"{found.label - 1} {' '.join(f'{v:.6f}' for v in box)} {found.score:.5f}\n"
            for found, box in zip(self, boxes_cxcywh.tolist(), strict=True)
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each object: name, label, score, left, top, right, bottom (pixels);
        MissingExtraError where pandas is not installed."""
        library = require("pandas", extra="pandas", why="to_pandas()")
        columns: dict[str, Any] = {"name": self.names, "label": self.labels, "score": self.scores}
        sides = ("left", "top", "right", "bottom")
        frame: pandas.DataFrame = library.DataFrame(
            columns | dict(zip(sides, self.boxes.reshape(-1, 4).T, strict=True))
        )
        return frame

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, an extra; class ids count from 0."""
        library = require("supervision", extra="supervision", why="to_supervision()")
        converted: supervision.Detections = library.Detections(
            xyxy=self.boxes.reshape(-1, 4),
            confidence=self.scores,
            class_id=(self.labels - 1).astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return converted


def _rows(index: Any) -> NDArray[np.bool_] | NDArray[np.int64]:
    """A mask or indices as an array of one axis."""
    rows = np.asarray(index)
    if rows.ndim == 1 and len(rows) == 0 and rows.dtype == np.float64:  # an empty list
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise TypeError(
            "expected an integer, a slice, or a mask or integers along one axis, got "
            f"{type(index).__name__}"
        )
    return rows
