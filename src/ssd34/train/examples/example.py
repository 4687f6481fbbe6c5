"""One picture as the network sees it, and what each default box learns from it."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from ssd34.core.default_boxes import default_boxes_cxcywh, encode
from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from ssd34.datasets.dataset import Dataset, Problem
from ssd34.errors import DatasetError, ImageError
from ssd34.train.examples.augment import apply_variation, draw_variation
from ssd34.train.examples.cache import PictureCache
from ssd34.train.examples.matcher import Matches, list_levels, match
from ssd34.train.options import TrainOptions


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A data set, how often to draw from it, and its labels as the network's.

    Attributes:
        weight: draws per picture and epoch.
        labels: (data set classes + 1,) int64, the network's label of each.
        labelled: (network classes + 1,) bool, background included.
        usable: indices of the pictures that have something to learn.
        frequency: how often each of them is drawn, in relation to the others.
    """

    dataset: Dataset
    weight: float
    labels: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    usable: NDArray[np.int64]
    frequency: NDArray[np.float64]


def make_training_sets(
    datasets: Sequence[tuple[Dataset, float]], target: LabelSet, *, balance: float = 0.0
) -> list[TrainingSet]:
    """Prepare data sets, each with its draws per picture and epoch, for a network with the classes
    `target`; `balance` as in `weigh_pictures`.

    Classes that no data set labels are taught as background everywhere: left out of every loss
    they would keep their first, meaningless scores. DatasetError where the network lacks a class,
    or a set has no picture with a box to learn.
    """
    sources = [_training_set(dataset, weight, target, balance) for dataset, weight in datasets]
    taught = np.any([source.labelled for source in sources], axis=0)
    return [dataclasses.replace(source, labelled=source.labelled | ~taught) for source in sources]


def _training_set(dataset: Dataset, weight: float, target: LabelSet, balance: float) -> TrainingSet:
    labels = dataset.labels_in(target)
    labelled = np.zeros(len(target) + 1, np.bool_)
    labelled[labels] = True
    shown = [set(sample.labels[~sample.ignored].tolist()) for sample in dataset.samples]
    usable = [number for number, classes in enumerate(shown) if classes]
    if not usable:
        raise DatasetError(f"{dataset.name}: no picture has a box to learn from")
    frequency = weigh_pictures([shown[number] for number in usable], balance)
    return TrainingSet(dataset, weight, labels, labelled, np.array(usable), frequency)


def weigh_pictures(shown: Sequence[set[int]], balance: float) -> NDArray[np.float64]:
    """How often to draw each picture, in relation to the others.

    That of its rarest class: max(1, sqrt(`balance` / share of the pictures that show the class)).
    `shown`: each picture's classes, at least one. Source: Gupta et al., LVIS, 2019, repeat factor
    sampling.
    """
    counts = Counter(label for labels in shown for label in labels)
    rarest = np.array([min(counts[label] for label in labels) for labels in shown])
    return np.sqrt(np.maximum(1.0, balance * len(shown) / rarest))


def count_draws(source: TrainingSet) -> int:
    """Pictures that an epoch draws from a data set; at least one."""
    return max(1, round(len(source.usable) * source.weight))


class Draw(NamedTuple):
    """One picture to make: where it is, its seed, its size."""

    source: int
    picture: int
    seed: tuple[int, int, int]
    size: int


class Unreadable(NamedTuple):
    """A picture that could not be made, and the size that it would have had."""

    problem: Problem
    size: int


class Made(NamedTuple):
    """A varied picture and what it teaches.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy, fractions of the picture: its objects.
        labels: (N,) int64, the network's.
        ignored_boxes: (M, 4) float32, as `boxes`: crowds and difficult objects.
        matches: what each default box learns.
        scores: (N,) float32; None: the data set has none.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored_boxes: NDArray[np.float32]
    matches: Matches
    scores: NDArray[np.float32] | None


class Examples(TorchDataset[Any]):
    """Makes one picture and its targets from a Draw."""

    def __init__(
        self,
        sources: Sequence[TrainingSet],
        spec: ModelSpec,
        options: TrainOptions,
        *,
        cached: int = 0,
    ) -> None:
        """`cached`: bytes of decoded pictures to keep."""
        self.sources = tuple(sources)
        self.options = options
        self.spec = spec
        lengths = [len(source.dataset) for source in self.sources]
        self._first = [sum(lengths[:number]) for number in range(len(lengths))]
        self.cache = PictureCache(sum(lengths), cached)
        self._default_boxes: dict[int, NDArray[np.float32]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process; of a hundred thousand pictures the annotations are pickled once,
        not once a worker."""
        state = self.__dict__ | {"sources": self._packed_sources}
        return {name: value for name, value in state.items() if name != "_packed_sources"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"sources": pickle.loads(state["sources"])}  # noqa: S301

    @cached_property
    def _packed_sources(self) -> bytes:
        return pickle.dumps(self.sources, pickle.HIGHEST_PROTOCOL)

    def default_boxes(self, size: int) -> NDArray[np.float32]:
        """The default boxes for an input of this size, made once."""
        if size not in self._default_boxes:
            self._default_boxes[size] = default_boxes_cxcywh(self.spec.at_size(size))
        return self._default_boxes[size]

    def make(self, draw: Draw) -> Made | Unreadable:
        """The picture of a draw and what each default box learns from it."""
        source = self.sources[draw.source]
        sample = source.dataset.samples[draw.picture]
        variation = draw_variation(
            sample.width,
            sample.height,
            sample.boxes,
            ignored=sample.ignored,
            labels=sample.labels,
            size=draw.size,
            options=self.options.augmentation,
            rng=np.random.default_rng(draw.seed),
        )
        factor = variation.factor
        number = self._first[draw.source] + draw.picture
        try:
            picture = self.cache.read(
                number, factor, lambda: source.dataset.read_reduced(sample, factor)
            )
        except ImageError as error:
            return Unreadable(Problem.of(sample, error), draw.size)
        seen = sample.of(variation.kept)
        ignored, taught = seen.ignored, seen.of(~seen.ignored)
        boxes, labels = variation.boxes[~ignored], source.labels[taught.labels]
        adaptive = self.options.matcher == "atss"
        matches = match(
            boxes,
            labels,
            default_boxes_cxcywh=self.default_boxes(draw.size),
            ignored_boxes=variation.boxes[ignored & ~seen.crowd],
            crowd_boxes=variation.boxes[seen.crowd],
            levels=list_levels(self.spec.at_size(draw.size)) if adaptive else None,
        )
        image = apply_variation(picture, variation, factor=factor)
        return Made(image, boxes, labels, variation.boxes[ignored], matches, taught.scores)

    def __getitem__(self, draw: Draw) -> tuple[NDArray[Any], ...] | Unreadable:
        made = self.make(draw)
        if isinstance(made, Unreadable):
            return made
        default_boxes, learned = self.default_boxes(draw.size), made.matches.labels > 0
        offsets = np.zeros_like(default_boxes)
        offsets[learned] = encode(made.matches.boxes_cxcywh[learned], default_boxes[learned])
        weights = np.ones(len(offsets) if self.options.score_weight else 0, np.float32)
        if self.options.score_weight and made.scores is not None:
            weights[learned] = made.scores[made.matches.objects[learned]]
        labelled = self.sources[draw.source].labelled
        return made.image, offsets, made.matches.labels, weights, labelled
