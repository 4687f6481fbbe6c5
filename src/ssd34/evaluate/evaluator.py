"""A detector on a data set: every picture once, then COCO's metrics.

Threads decode and prepare a few pictures ahead of the network, and pick detections behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import Picked, Policy
from ssd34.core.preprocess import FAST
from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.errors import ImageError
from ssd34.evaluate.metrics import CocoMetrics, match_categories, measure_coco
from ssd34.evaluate.results import Results, convert_picked
from ssd34.machine import overlapped
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Outputs

READ_AHEAD = 4
"""Prepared pictures (at least batches) that wait for the network, and outputs that wait for the
policy."""
READERS = 2
"""Threads that decode and prepare."""

_Batch = list[tuple[Sample, Any]]
"""Pictures with what became of each so far, or the error of one that cannot be read."""


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
    read: Callable[[Dataset, Sample], Any] = lambda dataset, sample: dataset.read(sample)


@dataclass(frozen=True)
class Found:
    """What was found in one picture, for each policy; a problem: it could not be read and counts
    as a picture without detections."""

    sample: Sample
    results: tuple[Results, ...]
    problem: Problem | None = None


def stage_detector(detector: Detector, policies: Sequence[Policy] = ()) -> Stages:
    """A loaded ONNX file in stages; one for several pictures at once is given as many.

    `policies`: how to pick, where the file ends at raw outputs; none: the detector's own way.
    """
    session = detector.session
    pickers = [Detector(session, policy=policy) for policy in policies] or [detector]

    def read(dataset: Dataset, sample: Sample) -> Any:
        if detector.preprocessing == FAST:
            return dataset.read_square(sample, session.spec.image_size)
        return dataset.read(sample)

    def pick(outputs: Outputs) -> tuple[Picked, ...]:
        return tuple(one.pick(outputs) for one in pickers)

    return Stages(session.prepare, session.compute, pick, read)


def detect_all(
    stages: Stages, dataset: Dataset, labels: LabelSet, *, batch_size: int = 1, start: int = 0
) -> Generator[Found, None, None]:
    """Run a detector with the classes `labels` over the pictures, one `Found` each, in the data
    set's order; the network is given `batch_size` at once, and the first `start` are passed over.
    DatasetError where the detector and the data set have no class in common."""
    categories = match_categories(labels, dataset)

    def prepared(sample: Sample) -> Any | ImageError:
        try:
            return stages.prepare(stages.read(dataset, sample))
        except ImageError as error:
            return error

    def prepare_all(samples: Sequence[Sample]) -> _Batch:
        return [(sample, prepared(sample)) for sample in samples]

    def infer_all(batches: Iterator[_Batch]) -> Iterator[_Batch]:
        for batch in batches:
            readable = [made for _, made in batch if not isinstance(made, ImageError)]
            raw = iter(stages.infer(readable) if readable else ())
            yield [(s, made if isinstance(made, ImageError) else next(raw)) for s, made in batch]

    def picked(sample: Sample, raw: Any) -> Found:
        if isinstance(raw, ImageError):
            return Found(sample, (), Problem.of(sample, raw))
        results = (
            convert_picked(p, sample=sample, categories=categories) for p in stages.pick(raw)
        )
        return Found(sample, tuple(results))

    def pick_all(batch: _Batch) -> list[Found]:
        return [picked(sample, raw) for sample, raw in batch]

    batches = (
        dataset.samples[at : at + batch_size] for at in range(start, len(dataset), batch_size)
    )
    waiting = max(1, READ_AHEAD // batch_size)
    # Closed here: the garbage collector might do it in a thread that is just starting, and hang.
    with (
        closing(overlapped(prepare_all, batches, ahead=waiting, threads=READERS)) as ready,
        closing(overlapped(pick_all, infer_all(ready), ahead=1, threads=1)) as coming,
    ):
        for found in coming:
            yield from found


def evaluate_detector(
    detector: Detector,
    dataset: Dataset,
    *,
    progress: Callable[[int], None] = lambda _: None,
    problem: Callable[[Problem], None] = lambda _: None,
) -> tuple[CocoMetrics, Results]:
    """The metrics of an ONNX file on every picture, and its detections in COCO's results form.
    Pictures that cannot be read count as empty; `problem` is called for each of them, `progress`
    with the number of those done. DatasetError as `detect_all`."""
    parts: list[Results] = []
    every = detect_all(
        stage_detector(detector), dataset, detector.labels, batch_size=detector.session.batch or 1
    )
    for done, found in enumerate(every, start=1):
        parts += found.results
        if found.problem:
            problem(found.problem)
        progress(done)
    results = Results.joined(parts)
    return measure_coco(dataset, results), results
