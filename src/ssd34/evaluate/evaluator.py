"""A detector on a data set: every picture once, then COCO's metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import Picked
from ssd34.data.dataset import Dataset, Problem
from ssd34.errors import ImageError
from ssd34.evaluate.coco_metrics import (
    CocoMetrics,
    Result,
    categories_of,
    coco_metrics,
    coco_results,
)
from ssd34.runtime.detector import Detector

PickMany = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Picked]]
"""Pictures (H, W, 3) uint8 RGB to the detections of each, in fractions of it."""


def evaluate(
    pick_many: PickMany,
    dataset: Dataset,
    labels: LabelSet,
    *,
    batch_size: int = 1,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, list[Result]]:
    """Run a detector over every picture and score it.

    A picture that cannot be read is reported and counts as one without detections.

    Args:
        pick_many: the detector; everything that it returns counts, whatever the score.
        dataset: pictures and boxes.
        labels: the detector's classes.
        batch_size: pictures that it is given at once.
        progress: called with the number of pictures done.
        problem: called for each unreadable picture.

    Returns:
        The metrics and the detections in COCO's results form.
    """
    categories = categories_of(labels, dataset)
    results: list[Result] = []
    for start in range(0, len(dataset), batch_size):
        samples, images = [], []
        for sample in dataset.samples[start : start + batch_size]:
            try:
                images.append(dataset.read(sample))
                samples.append(sample)
            except ImageError as error:
                problem(Problem.of(sample, error))
        if images:
            for sample, picked in zip(samples, pick_many(images), strict=True):
                results += coco_results(picked, sample=sample, categories=categories)
        progress(min(start + batch_size, len(dataset)))
    return coco_metrics(dataset, results), results


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    *,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, list[Result]]:
    """`evaluate` for a loaded ONNX file, one picture after the other."""
    return evaluate(
        lambda images: [detector.pick(image) for image in images],
        dataset,
        detector.labels,
        progress=progress,
        problem=problem,
    )
