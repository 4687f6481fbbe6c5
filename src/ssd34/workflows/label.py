"""Pictures that nobody has annotated, with a model's detections as annotations: what ``data label``
does."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.boxes import xyxy_from_xywh
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.errors import ImageError, OptionError
from ssd34.evaluate.results import read_results
from ssd34.files.tree import number_files, number_names
from ssd34.images.read import read_image_size
from ssd34.images.sources import PictureFile
from ssd34.machine import overlapped
from ssd34.runtime.detector import DEFAULT_SCORE, Detector, PreparedPicture
from ssd34.text import counted

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Labelling:
    """Which detections become annotations.

    Attributes:
        score: those that score this or more become objects.
        uncertain: those between this and `score` become ``difficult``: training takes them for
            neither object nor background. None: they are left out.
    """

    score: float = DEFAULT_SCORE
    uncertain: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise OptionError(f"expected a score from 0 to 1, got {self.score}")
        if self.uncertain is not None and not 0 <= self.uncertain <= self.score:
            raise OptionError(
                f"expected uncertain from 0 to the score of {self.score:g}, got {self.uncertain}"
            )

    @property
    def least(self) -> float:
        """The lowest score that is kept."""
        return self.score if self.uncertain is None else self.uncertain


class PictureFiles:
    """Picture files from anywhere, under names that are unique (an image store)."""

    def __init__(self, pictures: Sequence[PictureFile]) -> None:
        names = number_names(picture.relative for picture in pictures)
        self.paths = {
            name.as_posix(): picture.path for name, picture in zip(names, pictures, strict=True)
        }

    def read_bytes(self, file_name: str) -> bytes:
        """The file's bytes. ImageError: it cannot be read."""
        try:
            return self.paths[file_name].read_bytes()
        except OSError as error:
            raise ImageError(f"{self.paths[file_name]}: {error.strerror}") from None


def label_with_model(
    pictures: Sequence[PictureFile],
    detector: Detector,
    how: Labelling,
    *,
    progress: Progress = lambda _: None,
) -> Dataset:
    """The pictures with what a model finds in them. Those that cannot be read become problems."""
    bare = _unlabelled(pictures, detector.labels)
    store = bare.images
    assert isinstance(store, PictureFiles)

    def prepare(sample: Sample) -> PreparedPicture | ImageError:
        path = store.paths[sample.file_name]
        try:
            return detector.prepare(path)
        except ImageError as error:
            return ImageError(str(error).removeprefix(f"{path}: "))

    samples: list[Sample] = []
    problems = list(bare.problems)
    coming = overlapped(prepare, bare.samples, ahead=1, threads=1)
    with closing(coming):
        for sample, prepared in zip(bare.samples, coming, strict=True):
            if isinstance(prepared, ImageError):
                problems.append(Problem.of(sample, prepared))
            else:
                found = detector.find(prepared, score=how.least)
                samples.append(_labelled(sample, found.boxes, found.labels, found.scores, how))
            progress(len(samples) + len(problems))
    return replace(bare, samples=tuple(samples), problems=tuple(problems))


def label_with_results(pictures: Sequence[PictureFile], file: Path, how: Labelling) -> Dataset:
    """The pictures with anybody's detections on them: COCO's results JSON, which names picture and
    class (``file_name``, ``category_name``), or whose ``image_id`` is the number that names the
    picture's file, with COCO's category ids. DatasetError: no such file, or of other pictures."""
    bare = _unlabelled(pictures, _classes_of(file))
    results = read_results(file, bare)
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, image_id in enumerate(results.image_ids.tolist()):
        rows[image_id].append(row)
    label_of = bare.labels.label_of_category()
    labels = np.array([label_of[c] for c in results.category_ids.tolist()], np.int64)
    boxes = xyxy_from_xywh(results.boxes_xywh)
    samples = (
        _labelled(sample, boxes[of], labels[of], results.scores[of], how)
        for sample in bare.samples
        for of in [np.array(rows[sample.image_id], np.int64)]
    )
    return replace(bare, samples=tuple(samples))


def _classes_of(file: Path) -> LabelSet:
    """The classes that detections name, in the order of their ids; COCO's where they name none."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return COCO_LABELS  # the reader of the results says what is wrong
    named: dict[str, float] = {}
    for value in values if isinstance(values, list) else []:
        if isinstance(value, dict) and isinstance(name := value.get("category_name"), str):
            number = value.get("category_id")
            named.setdefault(name, number if isinstance(number, int) else math.inf)
    if set(named) <= set(COCO_LABELS.names):
        return COCO_LABELS
    return LabelSet.from_names(sorted(named, key=lambda name: named[name]))


def _unlabelled(pictures: Sequence[PictureFile], labels: LabelSet) -> Dataset:
    """The pictures without boxes, their size read from their headers."""
    store = PictureFiles(pictures)
    samples: list[Sample] = []
    problems: list[Problem] = []
    numbers = number_files([Path(name).name for name in store.paths])
    for (name, path), number in zip(store.paths.items(), numbers, strict=True):
        try:
            with path.open("rb") as stream:
                width, height = read_image_size(stream, name)
        except (ImageError, OSError) as error:
            problems.append(Problem(name, str(error).removeprefix(f"{name}: ")))
            continue
        none = np.zeros(0)
        samples.append(
            Sample(
                name, number, width, height,
                boxes=none.reshape(0, 4).astype(np.float32), labels=none.astype(np.int64),
                areas=none, crowd=none.astype(bool), difficult=none.astype(bool),
            )
        )  # fmt: skip
    if not samples:
        raise ImageError(
            f"none of {counted(len(pictures), 'picture')} can be read; first: {problems[0]}"
        )
    return Dataset("pictures", labels, tuple(samples), store, problems=tuple(problems))


def _labelled(
    sample: Sample,
    boxes: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    how: Labelling,
) -> Sample:
    """A picture with detections (N, 4) xyxy pixels, (N,), (N,) as annotations, cut at its edges."""
    inside = np.clip(boxes, 0, [sample.width, sample.height] * 2)
    sides = inside[:, 2:] - inside[:, :2]
    kept = (scores >= np.float32(how.least)) & (sides > 0).all(axis=1)
    return replace(
        sample, boxes=inside[kept].astype(np.float32), labels=labels[kept],
        areas=sides[kept].prod(axis=1).astype(np.float64), crowd=np.zeros(int(kept.sum()), bool),
        difficult=scores[kept] < np.float32(how.score),
        scores=scores[kept].clip(0, 1).astype(np.float32),
    )  # fmt: skip
