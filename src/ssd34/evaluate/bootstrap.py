"""How far AP would move with other pictures: the bootstrap over pictures.

Pictures are drawn with replacement, as many as there are, and AP is accumulated again. Matches
depend on their own picture alone, so the library finds them once, and a draw only counts pictures
more or less often. The middle 95 % of the draws, moved so that their mean is the measured number
(why: docs/decisions), are the interval. Where objects lie in a few pictures only, draws spread too
little: then there is none.

Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.dataset import Dataset
from ssd34.evaluate.metrics import list_class_names, open_evaluation

RECALLS = np.linspace(0, 1, 101)
"""At which COCO samples the precision."""
IOU_THRESHOLDS = 10
"""0.50, 0.55 to 0.95."""
MAX_DETECTIONS = 100
CONFIDENCE = 0.95
FEWEST_PICTURES = 5
"""In which objects have to lie for an interval."""
_ANY_AREA = [0.0, 1e10]
_PICTURES_AT_ONCE = 100
_DRAWS_AT_ONCE = 50
SHORT = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""The numbers that get an interval, and the IoU thresholds that they are the mean of."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class in all pictures, best first.

    Attributes:
        pictures: (N,) int32, each one's picture, an index.
        hits: (10, N) bool, for each IoU threshold whether it found an object.
        ignored: (10, N) bool, whether it counts neither way, as it lies on a crowd.
        objects: (P,) int32, how many objects each picture has.
    """

    pictures: NDArray[np.int32]
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int32]

    @property
    def enough(self) -> bool:
        """Whether its objects lie in as many pictures as an interval needs."""
        return int(np.count_nonzero(self.objects)) >= FEWEST_PICTURES


@dataclass(frozen=True, eq=False)
class DatasetMatches:
    """Which detections match, by name for each class with objects, of how many pictures."""

    classes: Mapping[str, ClassMatches]
    pictures: int

    @property
    def enough(self) -> bool:
        """Whether objects of any class lie in as many pictures as an interval needs."""
        objects = sum(one.objects for one in self.classes.values())
        return int(np.count_nonzero(objects)) >= FEWEST_PICTURES


class Interval(NamedTuple):
    """Where the middle of the draws lies."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Intervals of AP, AP50 and AP75 and of each class's AP, where objects lie in as many as
    `FEWEST_PICTURES`."""

    resamples: int
    seed: int
    confidence: float = CONFIDENCE
    summary: Mapping[str, Interval]
    class_ap: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        summary, class_ap = (
            {name: [*found] for name, found in part.items()}
            for part in (self.summary, self.class_ap)
        )
        return {**vars(self), "summary": summary, "class_ap": class_ap}


def match(dataset: Dataset, results: Sequence[Mapping[str, Any]]) -> DatasetMatches:
    """Match detections with objects as COCO does, at most 100 of a picture and class;
    MissingExtraError without hotcoco."""
    evaluation = open_evaluation(dataset, results)
    evaluation.params.area_rng = [_ANY_AREA]
    evaluation.params.area_rng_lbl = ["all"]
    evaluation.params.max_dets = [MAX_DETECTIONS]
    parts: defaultdict[int, list[tuple[NDArray[Any], ...]]] = defaultdict(list)
    objects = np.zeros((len(dataset.labels), len(dataset)), np.int32)
    # Some pictures at a time: the library's answer for all would be gigabytes.
    numbers = list(range(1, len(dataset) + 1))
    for start in range(0, len(dataset), _PICTURES_AT_ONCE):
        evaluation.params.img_ids = numbers[start : start + _PICTURES_AT_ONCE]
        evaluation.evaluate()
        for one in evaluation.eval_imgs:
            column, index = one["category_id"] - 1, one["image_id"] - 1
            objects[column, index] = len(one["gtIgnore"]) - sum(one["gtIgnore"])
            scores = np.array(one["dtScores"], np.float64)
            hits, ignored = (
                np.array(one[key], np.bool_).reshape(IOU_THRESHOLDS, len(scores))
                for key in ("dtMatched", "dtIgnore")
            )
            parts[column].append((np.full(len(scores), index, np.int32), scores, hits, ignored))
    columns = list_class_names(dataset.labels)
    classes = {
        name: _best_first(parts[column], objects[column])
        for name in dataset.labels.names
        if objects[column := columns.index(name)].any()
    }
    return DatasetMatches(classes, len(dataset))


def _best_first(
    parts: Sequence[tuple[NDArray[Any], ...]], objects: NDArray[np.int32]
) -> ClassMatches:
    pictures, scores, hits, ignored = (
        np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)
    )
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(pictures[order], (hits & ~ignored)[:, order], ignored[:, order], objects)


def average_precision(one: ClassMatches, counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """AP of a class at each IoU threshold, (B, 10) float64, were every picture there so many times,
    (B, P) int32; NaN where no object is left."""
    objects = counts @ one.objects
    weights = counts[:, one.pictures]
    seen = np.cumsum(weights, axis=1, dtype=np.int32)
    result = np.full((len(counts), IOU_THRESHOLDS), np.nan)
    there = objects > 0
    for k, (hits, ignored) in enumerate(zip(one.hits, one.ignored, strict=True)):
        # Precision falls at every miss, so its maxima, which count, all lie at hits.
        at = np.flatnonzero(hits)
        found = np.cumsum(weights[:, at], axis=1, dtype=np.int32)
        counted = seen[:, at]
        if ignored.any():
            passed_over = np.flatnonzero(ignored)
            sums = np.cumsum(weights[:, passed_over], axis=1, dtype=np.int32)
            sums = np.concatenate([np.zeros((len(counts), 1), np.int32), sums], axis=1)
            counted = counted - sums[:, np.searchsorted(passed_over, at)]
        precision = found / np.maximum(counted, 1)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(objects, 1)[:, None]
        reached = np.searchsorted(RECALLS, recall, side="right")
        steps = np.diff(reached, axis=1, prepend=0)
        values = (best_from_here * steps).sum(axis=1) / len(RECALLS)
        result[there, k] = values[there]
    return result


def draw_pictures(
    matches: DatasetMatches, *, resamples: int, seed: int
) -> Iterator[NDArray[np.int32]]:
    """(B, P) int32: how often each picture is drawn, in blocks of some draws."""
    generator = np.random.default_rng(seed)
    number = matches.pictures
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        block = min(_DRAWS_AT_ONCE, resamples - start)
        drawn = generator.integers(number, size=(block, number))
        drawn += np.arange(block)[:, None] * number
        counts = np.bincount(drawn.ravel(), minlength=block * number)
        yield counts.reshape(block, number).astype(np.int32)


def accumulate(matches: DatasetMatches, counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """(B, classes, 10) float64: AP of each class at each IoU threshold; NaN without objects."""
    if not matches.classes:
        return np.zeros((len(counts), 0, IOU_THRESHOLDS))
    return np.stack([average_precision(one, counts) for one in matches.classes.values()], axis=1)


def accumulate_draws(
    matches: DatasetMatches, *, resamples: int, seed: int, progress: Callable[[int], None]
) -> NDArray[np.float64]:
    """(1 + resamples, classes, 10) float64: `accumulate` of the pictures as they are, then of each
    draw; `progress` is called with the number of draws done."""
    blocks = [accumulate(matches, np.ones((1, matches.pictures), np.int32))]
    done = 0
    for counts in draw_pictures(matches, resamples=resamples, seed=seed):
        blocks.append(accumulate(matches, counts))
        done += len(counts)
        progress(done)
    return np.concatenate(blocks)


def summarise(class_ap: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """COCO's AP, AP50, AP75, (B,) float64 each, from (B, classes, 10) AP; NaN: no objects."""
    return {name: average_known(class_ap[:, :, where]) for name, where in SHORT.items()}


def average_classes(class_ap: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """AP of each class, (B,) float64, from (B, classes, 10)."""
    return [average_known(class_ap[:, k]) for k in range(class_ap.shape[1])]


def average_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over all axes but the first of what is not NaN; NaN where nothing is left."""
    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    number = known.sum(axis=1)
    sums = np.where(known, flat, 0).sum(axis=1)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def measure_interval(
    measured: float, drawn: NDArray[np.float64], *, within: tuple[float, float] = (0, 1)
) -> Interval | None:
    """Where the middle of the draws, (B,) float64, lies once their mean is moved to the measured
    number, as far as that can be at all; None where all draws, or the number itself, are NaN."""
    known = drawn[~np.isnan(drawn)]
    if np.isnan(measured) or not known.size:
        return None
    tails = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.clip(measured + tails - known.mean(), *within)
    return Interval(float(low), float(high))


def estimate_uncertainty(
    matches: DatasetMatches,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Uncertainty:
    """Intervals from so many draws, the same for a seed; `progress` is called with those done."""
    drawn = accumulate_draws(matches, resamples=resamples, seed=seed, progress=progress)
    summary = {name: measure_interval(k[0], k[1:]) for name, k in summarise(drawn).items()}
    class_ap = {
        name: measure_interval(k[0], k[1:])
        for (name, one), k in zip(matches.classes.items(), average_classes(drawn), strict=True)
        if one.enough
    }
    return Uncertainty(
        summary={name: found for name, found in summary.items() if found and matches.enough},
        class_ap={name: found for name, found in class_ap.items() if found},
        resamples=resamples,
        seed=seed,
    )
