"""Detections of many pictures in COCO's results form: as columns, 56 bytes a detection, and as its
JSON, a list of objects with image_id, category_id, bbox and score."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xywh_from_xyxy
from ssd34.core.postprocess import Picked
from ssd34.datasets.contents import best_fitting, parts_of
from ssd34.datasets.dataset import Dataset, Sample
from ssd34.errors import DatasetError
from ssd34.files.atomic import written_whole

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
        return cls(*map(np.concatenate, zip(*(part._columns for part in kept), strict=True)))

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.image_ids, self.category_ids, self.boxes_xywh, self.scores

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> Result | Results:
        if isinstance(index, slice):
            return Results(*(column[index] for column in self._columns))
        return Result(
            image_id=int(self.image_ids[index]),
            category_id=int(self.category_ids[index]),
            bbox=self.boxes_xywh[index].tolist(),
            score=float(self.scores[index]),
        )

    def where(self, mask: NDArray[np.bool_]) -> Results:
        """Only those for which (N,) `mask` holds."""
        return Results(*(column[mask] for column in self._columns))

    def within(self, dataset: Dataset) -> Results:
        """Only those of a data set's pictures and classes."""
        pictures = [sample.image_id for sample in dataset.samples]
        known = np.isin(self.image_ids, pictures)
        return self.where(known & np.isin(self.category_ids, dataset.labels.category_ids))

    def as_array(self) -> NDArray[np.float64]:
        """(N, 7) float64: image id, x, y, width, height, score, category id; pycocotools' form."""
        columns = (self.image_ids, *self.boxes_xywh.T, self.scores, self.category_ids)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)


def convert_picked(picked: Picked, *, sample: Sample, categories: NDArray[np.int64]) -> Results:
    """Detections of one picture, picked in fractions of it, in COCO's results form.

    `categories`, (network classes + 1,) int64, has the data set's category id of each network
    label, -1 where it does not have the class; such detections are left out.
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


FORM = '[{"image_id": 1, "category_id": 1, "bbox": [left, top, width, height], "score": 0.9}, ...]'


def write_results(path: Path, results: Results) -> None:
    """Write COCO's results JSON, one detection a line; the whole file or none."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for index, result in enumerate(results):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(result))
        file.write("\n]\n")


def read_results(path: Path, dataset: Dataset) -> Results:
    """Read anybody's detections on a data set from COCO's results JSON.

    Detections that name their picture and class (``file_name`` and ``category_name``, as
    ``ssd34 detect`` writes them) are taken by these names, whatever their ids; those of a class
    that the data set does not have are left out. Of several pictures with one name, folders decide.
    Those that name only their picture, as some tools do beside an ``image_id`` of their own or with
    the name as ``image_id``, are taken by this name and their category id.

    Raises:
        DatasetError: not such a file, or a detection is malformed, or of a picture or class that
            the data set does not have; the message says which.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected detections, {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error}); expected detections, {FORM}") from None
    if not isinstance(values, list):
        hint = ""
        if isinstance(values, dict) and "summary" in values:
            hint = " (this is a report; give the file that evaluate --detections wrote)"
        elif isinstance(values, dict) and "pictures" in values:
            hint = " (for this, ssd34 detect needs --format coco --score 0)"
        elif isinstance(values, dict) and "annotations" in values:
            hint = " (these are annotations)"
        raise DatasetError(f"{path}: not a list of detections{hint}; expected {FORM}")
    values = _by_name(path, values, dataset)
    pictures = {sample.image_id for sample in dataset.samples}
    categories = set(dataset.labels.category_ids)
    for number, value in enumerate(values):
        wrong = _wrong(value, pictures, categories, dataset.name)
        if wrong:
            raise DatasetError(f"{path}: detection {number}: {wrong}")
    return Results.of(values)


def _by_name(path: Path, values: list[Any], dataset: Dataset) -> list[Any]:
    """Detections with the data set's ids where they name their picture, or picture and class."""
    if not any(map(_picture_of, values)):
        return values
    pictures: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        name = parts_of(sample.file_name)[-1]
        for key in {name, PurePosixPath(name).stem}:
            pictures[key].append(sample)
    categories = dict(zip(dataset.labels.names, dataset.labels.category_ids, strict=True))
    found: list[Any] = []
    for number, value in enumerate(values):
        name = _picture_of(value)
        if not name:
            found.append(value)
            continue
        named: dict[str, int] = {}
        if "category_name" in value and "file_name" in value:
            category = categories.get(str(value["category_name"]))
            if category is None:
                continue
            named["category_id"] = category
        parts = parts_of(name)
        meant = best_fitting(parts, pictures.get(parts[-1], []), lambda sample: sample.file_name)
        if len(meant) == 1:
            found.append({**value, **named, "image_id": meant[0].image_id})
        elif "file_name" not in value or (not named and _is_int(value.get("image_id"))):
            found.append(value)  # its own ids tell, or are refused
        else:
            what = "no picture" if not meant else "one of several pictures"
            raise DatasetError(
                f"{path}: detection {number}: {parts[-1]:.80} is {what} of {dataset.name}; give "
                "the data that the detections were made on, and its pictures with their folders"
            )
    return found


def _picture_of(value: Any) -> str:
    """The picture that a detection names, by its file or an image id that is no number; or ""."""
    names = (value.get("file_name"), value.get("image_id")) if isinstance(value, dict) else ()
    return next((name for name in names if isinstance(name, str)), "")


def _wrong(value: Any, pictures: set[int], categories: set[int], data: str) -> str | None:
    """What is wrong with a detection."""
    if not isinstance(value, dict):
        return f"expected an object, got {value!r:.60}"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in value:
            return f"has no {key!r}; expected {FORM}"
    image_id, category_id = value["image_id"], value["category_id"]
    if not _is_int(image_id) or image_id not in pictures:
        return (
            f"image_id {image_id!r:.40} is no picture of {data}, whose ids begin with "
            f"{_first(pictures)}; give the data that the detections were made on"
        )
    if not _is_int(category_id) or category_id not in categories:
        return (
            f"category_id {category_id!r:.40} is no class of {data}, whose ids are "
            f"{_first(categories)}; write the data set's own ids (COCO's have gaps)"
        )
    box, score = value["bbox"], value["score"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return f"bbox {box!r:.60}: expected four finite numbers: left, top, width, height"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {box!r:.60} has a negative size; expected left, top, width, height"
    if not _is_finite(score):
        return f"score {score!r:.40}: expected a finite number"
    return None


def _is_int(value: Any) -> bool:
    """Also of 7.0, as tables of other tools write a 7."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _first(ids: set[int]) -> str:
    ordered: Sequence[int] = sorted(ids)
    return ", ".join(map(str, ordered[:3])) + (f" ... {ordered[-1]}" if len(ordered) > 3 else "")


def find_coverage_gap(results: Results, dataset: Dataset) -> int:
    """How many pictures at the end of a data set have no detections, where that is so of more
    than a tenth: the detections were then probably made on fewer pictures. Else 0."""
    found = set(results.image_ids.tolist())
    last = max(
        (k for k, sample in enumerate(dataset.samples, start=1) if sample.image_id in found),
        default=0,
    )
    gap = len(dataset) - last
    return gap if last and gap > len(dataset) / 10 else 0
