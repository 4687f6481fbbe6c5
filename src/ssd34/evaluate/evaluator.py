"""A detector on a data set: COCO metrics under a policy."""

from __future__ import annotations

from collections.abc import Callable

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


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    *,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, list[Result]]:
    """Run a detector over every picture and score it.

    A picture that cannot be read is reported and counts as one without detections.

    Args:
        detector: everything that its policy lets through counts, whatever the score.
        dataset: pictures and boxes.
        progress: called with the number of pictures done.
        problem: called for each unreadable picture.

    Returns:
        The metrics and the detections in COCO's results form.
    """
    categories = categories_of(detector.labels, dataset)
    results: list[Result] = []
    for done, sample in enumerate(dataset.samples, start=1):
        try:
            image = dataset.read(sample)
        except ImageError as error:
            problem(Problem(sample.file_name, str(error).removeprefix(f"{sample.file_name}: ")))
        else:
            picked = detector.pick(image)
            results += coco_results(picked, sample=sample, categories=categories)
        progress(done)
    return coco_metrics(dataset, results), results
