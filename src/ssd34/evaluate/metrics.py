"""COCO box metrics through the hotcoco library, a well-kept port of pycocotools."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xywh_from_xyxy
from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.voc import COCO_NAMES
from ssd34.errors import DatasetError, require
from ssd34.evaluate.results import Results

_AREAS = {"small": 1, "medium": 2, "large": 3}
_SHOWN = 8
_MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class CocoMetrics:
    """The twelve COCO numbers in 0..1; None where there is nothing to measure.

    Attributes:
        pictures: how many were evaluated.
        summary: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small,
            AR_medium, AR_large, in this order.
        class_ap, class_ap50: of each class that has objects.
        area_class_ap: for ``small``, ``medium`` and ``large`` the AP of each class that has
            objects of that size.
    """

    pictures: int
    summary: Mapping[str, float | None]
    class_ap: Mapping[str, float]
    class_ap50: Mapping[str, float]
    area_class_ap: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        """AP over IoU 0.50:0.95, 0 where there are no objects."""
        return self.summary["AP"] or 0.0

    @property
    def ap50(self) -> float:
        """AP at IoU 0.50, 0 where there are no objects."""
        return self.summary["AP50"] or 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return dataclasses.asdict(self)


def match_categories(labels: LabelSet, dataset: Dataset) -> NDArray[np.int64]:
    """Each network label's category id in a data set, matched by name; -1: it has no such class.
    DatasetError where they have none in common."""
    known = dict(zip(dataset.labels.names, dataset.labels.category_ids, strict=True))
    categories = np.array([-1, *(known.get(name, -1) for name in labels.names)], np.int64)
    if (categories < 0).all():
        raise DatasetError(
            f"{dataset.name}: has no class in common with the model (the data set has "
            f"{dataset.labels.preview(4)}; the model {labels.preview(4)}); rename the classes, "
            "VOC's names with --coco-names"
        )
    return categories


def describe_unknown_classes(labels: LabelSet, dataset: Dataset) -> str | None:
    """Which of a data set's classes a model does not know, and what may help; None where it knows
    all, or none, which is an error of `match_categories`."""
    unknown = [name for name in dataset.labels.names if name not in labels.names]
    if len(unknown) in (0, len(dataset.labels)):
        return None
    remedy = "; for VOC's names: --coco-names" if set(unknown) & set(COCO_NAMES) else ""
    return (
        f"{dataset.name}: the model does not know {', '.join(unknown[:_SHOWN])}"
        f"{' ...' if len(unknown) > _SHOWN else ''}, which count as missed{remedy}"
    )


def open_evaluation(dataset: Dataset, results: Sequence[Mapping[str, Any]]) -> Any:
    """hotcoco's COCOeval of detections against a data set's boxes; MissingExtraError without it.

    VOC's difficult boxes become crowd boxes, which COCO's metric counts neither as found nor as
    missed. Pictures and classes are numbered from 1, in the order of their ids: the library, like
    pycocotools, keeps those of detections as float64, which does not tell large ones apart.
    """
    hotcoco = require("hotcoco", extra="evaluate", why="COCO evaluation")
    pictures = number_in_order(sample.image_id for sample in dataset.samples)
    classes = number_in_order(dataset.labels.category_ids)
    annotations: list[dict[str, Any]] = []
    for sample in dataset.samples:
        boxes = xywh_from_xyxy(sample.boxes)
        for box, label, area, ignored in zip(
            boxes.tolist(), sample.labels.tolist(), sample.areas, sample.ignored, strict=True
        ):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": pictures[sample.image_id],
                "category_id": classes[dataset.labels.category_id(label)],
                "bbox": box,
                "area": float(area),
                "iscrowd": int(ignored),
            })  # fmt: skip
    truth = hotcoco.COCO({
        "images": [{"id": number} for number in pictures.values()],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in classes.values()],
    })  # fmt: skip
    found = Results.of(results)
    rows = found.as_array()
    rows[:, 0] = [pictures[image_id] for image_id in found.image_ids.tolist()]
    rows[:, 6] = [classes[category_id] for category_id in found.category_ids.tolist()]
    return hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")


def number_in_order(ids: Iterable[int]) -> dict[int, int]:
    """Ids to their places, from 1, in rising order."""
    return {one: number for number, one in enumerate(sorted(ids), start=1)}


def measure_coco(dataset: Dataset, results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    """Score detections in COCO's results form (image_id, category_id, bbox in xywh pixels, score)
    against a data set's boxes; pictures without boxes or detections count, too, detections of other
    pictures and classes do not. MissingExtraError without hotcoco."""
    evaluation = open_evaluation(dataset, Results.of(results).within(dataset))
    evaluation.evaluate()
    evaluation.accumulate()
    # precision: (IoU thresholds, recalls, classes, areas, limits); recall lacks the second axis.
    precision = np.asarray(evaluation.eval["precision"])
    recall = np.asarray(evaluation.eval["recall"])
    summary: dict[str, float | None] = {
        "AP": average_measured(precision[:, :, :, 0, -1]),
        "AP50": average_measured(precision[0, :, :, 0, -1]),
        "AP75": average_measured(precision[5, :, :, 0, -1]),
    }
    summary |= {f"AP_{n}": average_measured(precision[:, :, :, k, -1]) for n, k in _AREAS.items()}
    summary |= {
        f"AR{n}": average_measured(recall[:, :, 0, k]) for k, n in enumerate(_MAX_DETECTIONS)
    }
    summary |= {f"AR_{n}": average_measured(recall[:, :, k, -1]) for n, k in _AREAS.items()}
    names = list_class_names(dataset.labels)

    def by_class(values: NDArray[np.float64]) -> dict[str, float]:
        means = {name: average_measured(values[..., k]) for k, name in enumerate(names)}
        return {name: value for name, value in means.items() if value is not None}

    return CocoMetrics(
        summary=summary,
        class_ap=by_class(precision[:, :, :, 0, -1]),
        class_ap50=by_class(precision[0, :, :, 0, -1]),
        pictures=len(dataset),
        area_class_ap={n: by_class(precision[:, :, :, k, -1]) for n, k in _AREAS.items()},
    )


def list_class_names(labels: LabelSet) -> list[str]:
    """The class names in the order of the library's arrays."""
    return [name for _, name in sorted(zip(labels.category_ids, labels.names, strict=True))]


def average_measured(values: NDArray[np.float64]) -> float | None:
    """The mean of what was measured; the library marks the rest with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


IOU = 0.5
"""The overlap from which on a box counts as found, wherever a report needs a single one."""

FOUND, FALSE_ALARM, NOT_COUNTED = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Matching:
    """COCO's greedy matching at `IOU`: best score first, each object found once.

    Leaving out all detections below a score changes nothing for those above it, so one matching
    serves every score threshold.

    Attributes:
        status: (D,) int8: `FOUND`, `FALSE_ALARM`, or `NOT_COUNTED` (in a crowd, or beyond the
            100 of a picture and class), in the order of the results.
        scores: (D,) float64.
        found_by: (G,) int64: the detection that found each box of the data set, -1: none.
        counted: (G,) bool: the boxes that are to be found; False for crowds.
    """

    status: NDArray[np.int8]
    scores: NDArray[np.float64]
    found_by: NDArray[np.int64]
    counted: NDArray[np.bool_]

    def found_at(self, score: float) -> NDArray[np.bool_]:
        """(G,) bool: boxes that a detection of at least this score has found."""
        found = self.found_by >= 0
        found[found] = self.scores[self.found_by[found]] >= score
        return found


def match_detections(dataset: Dataset, results: Results) -> tuple[Any, Matching]:
    """An evaluation (hotcoco's COCOeval after `evaluate`) of detections in a data set's pictures
    and of its classes, and its matching; MissingExtraError without hotcoco."""
    evaluation = open_evaluation(dataset, results)
    evaluation.evaluate()
    boxes = sum(len(sample.boxes) for sample in dataset.samples)
    told = evaluation.image_diagnostics(iou_thr=IOU)
    status = np.full(len(results), NOT_COUNTED, np.int8)
    for number, word in told["dt_status"].items():
        status[number - 1] = FOUND if word == "tp" else FALSE_ALARM
    found_by = np.full(boxes, -1, np.int64)
    for number, detection in told["gt_match"].items():
        found_by[number - 1] = detection - 1
    counted = np.zeros(boxes, bool)
    counted[[number - 1 for number in told["gt_status"]]] = True
    return evaluation, Matching(status, results.scores, found_by, counted)
