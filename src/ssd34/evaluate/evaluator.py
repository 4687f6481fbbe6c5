"""A detector on a data set: every picture once, then COCO's metrics.

Memory holds the detections and a few pictures, however many there are: pictures are decoded and
prepared ahead of the network in threads, and detections are picked from its output behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.default_boxes import decode, default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import Picked, Policy, pick, softmax
from ssd34.core.preprocess import FAST
from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.errors import ImageError
from ssd34.evaluate.metrics.coco import CocoMetrics, categories_of, measure_coco
from ssd34.evaluate.results import Results, coco_results
from ssd34.machine import overlapped
from ssd34.runtime.detector import Detector

READ_AHEAD = 4
"""Prepared pictures (at least batches) that wait for the network, and outputs that wait for the
policy."""
READERS = 2
"""Threads that decode and prepare."""


def _read(dataset: Dataset, sample: Sample) -> Any:
    return dataset.read(sample)


@dataclass(frozen=True)
class Stages:
    """A detector, cut where threads help.

    Attributes:
        prepare: a picture, (H, W, 3) uint8 RGB, to what the network takes; ahead, in threads.
        infer: what was prepared of some pictures to the raw output of each; in the caller's
            thread.
        pick: one picture's raw output to its detections in fractions of it, one for each
            policy; everything that it returns counts, whatever the score. Behind, in a thread.
        read: the picture of a sample as `prepare` takes it; ahead, in threads.
    """

    prepare: Callable[[Any], Any]
    infer: Callable[[Sequence[Any]], Sequence[Any]]
    pick: Callable[[Any], tuple[Picked, ...]]
    read: Callable[[Dataset, Sample], Any] = _read


@dataclass(frozen=True)
class Found:
    """What was found in one picture, for each policy; a problem: it could not be read and counts
    as a picture without detections."""

    sample: Sample
    results: tuple[Results, ...]
    problem: Problem | None = None


def stages_of(detector: Detector, policies: Sequence[Policy] | None = None) -> Stages:
    """A loaded ONNX file in stages.

    Args:
        detector: the file. One for several pictures at once is given as many.
        policies: how to pick, where the file ends at raw outputs; None: the detector's own way.
    """
    session = detector.session
    side = session.spec.image_size
    fast = detector.preprocessing == FAST

    def read(dataset: Dataset, sample: Sample) -> Any:
        return dataset.read_square(sample, side) if fast else dataset.read(sample)

    batch = session.batch or 1

    def infer(prepared: Sequence[NDArray[Any]]) -> Sequence[Any]:
        rows = [*prepared, *[prepared[-1]] * (batch - len(prepared))]
        tensor = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if not session.raw:
            return session.run_detections(tensor)[: len(prepared)]
        return list(zip(*session.run_raw(tensor), strict=True))[: len(prepared)]

    if not session.raw:
        return Stages(session.prepare, infer, lambda found: (Picked(*found),), read)
    default_boxes = default_boxes_cxcywh(session.spec)
    wanted = [detector.policy] if policies is None else policies

    def pick_each(raw: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[Picked, ...]:
        loc, conf = raw
        boxes, scores = decode(loc, default_boxes), softmax(conf)
        return tuple(pick(boxes, scores, policy=policy) for policy in wanted)

    return Stages(session.prepare, infer, pick_each, read)


def detect_all(
    stages: Stages, dataset: Dataset, labels: LabelSet, *, batch_size: int = 1, start: int = 0
) -> Iterator[Found]:
    """Run a detector over the pictures, one `Found` each, in the data set's order.

    Args:
        stages: the detector.
        dataset: pictures; its classes decide which detections count.
        labels: the detector's classes.
        batch_size: pictures that the network is given at once.
        start: pictures to pass over at the beginning.

    Raises:
        DatasetError: the detector and the data set have no class in common.
    """
    categories = categories_of(labels, dataset)

    def prepared(sample: Sample) -> Any | ImageError:
        try:
            return stages.prepare(stages.read(dataset, sample))
        except ImageError as error:
            return error

    def prepare_all(samples: Sequence[Sample]) -> list[tuple[Sample, Any]]:
        return [(sample, prepared(sample)) for sample in samples]

    def infer_all(
        batches: Iterator[list[tuple[Sample, Any]]],
    ) -> Iterator[list[tuple[Sample, Any]]]:
        for batch in batches:
            readable = [made for _, made in batch if not isinstance(made, ImageError)]
            raw = iter(stages.infer(readable) if readable else ())
            yield [
                (sample, made if isinstance(made, ImageError) else next(raw))
                for sample, made in batch
            ]

    def pick_all(batch: list[tuple[Sample, Any]]) -> list[Found]:
        return [
            Found(sample, (), Problem.of(sample, raw))
            if isinstance(raw, ImageError)
            else Found(
                sample,
                tuple(
                    coco_results(picked, sample=sample, categories=categories)
                    for picked in stages.pick(raw)
                ),
            )
            for sample, raw in batch
        ]

    batches = (
        dataset.samples[at : at + batch_size] for at in range(start, len(dataset), batch_size)
    )
    waiting = max(1, READ_AHEAD // batch_size)
    ready = overlapped(prepare_all, batches, ahead=waiting, threads=READERS)
    for found in overlapped(pick_all, infer_all(ready), ahead=1, threads=1):
        yield from found


def evaluate(
    stages: Stages,
    dataset: Dataset,
    labels: LabelSet,
    *,
    batch_size: int = 1,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, Results]:
    """Run a detector over every picture and score it under its first policy.

    A picture that cannot be read is reported and counts as one without detections.

    Args:
        stages: the detector.
        dataset: pictures and boxes.
        labels: the detector's classes.
        batch_size: pictures that it is given at once.
        progress: called with the number of pictures done.
        problem: called for each unreadable picture.

    Returns:
        The metrics and the detections in COCO's results form.
    """
    parts: list[Results] = []
    for done, found in enumerate(
        detect_all(stages, dataset, labels, batch_size=batch_size), start=1
    ):
        parts += found.results[:1]
        if found.problem:
            problem(found.problem)
        progress(done)
    results = Results.joined(parts)
    return measure_coco(dataset, results), results


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    *,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, Results]:
    """`evaluate` for a loaded ONNX file."""
    return evaluate(
        stages_of(detector),
        dataset,
        detector.labels,
        batch_size=detector.session.batch or 1,
        progress=progress,
        problem=problem,
    )
