"""One data set divided into parts in which classes have the same shares."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.datasets.dataset import Dataset, Sample
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.machine import overlapped
from ssd34.text import counted

FIRST = "train"

NEAR = 6
"""Bits of 128 by which the hashes of two pictures of one scene may differ."""

_SIDE = 8
_BANDS = 8
"""Hashes that differ by less than this many bits agree in one of so many equal parts."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How to divide.

    Attributes:
        shares: of the pictures that each part but `FIRST` gets, such as ``{"val": 0.2}``; `FIRST`
            gets the rest.
        pattern: pictures stay together where the first group of this regular expression (all of
            it, if it has none) matches the same text in their file names.
        seed: of the choice among pictures that are equally good.
    """

    shares: Mapping[str, float]
    pattern: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        shown = ", ".join(f"{share:g} for {name}" for name, share in self.shares.items())
        if not self.shares or any(not 0 < share < 1 for share in self.shares.values()):
            raise OptionError(
                f"expected shares between 0 and 1, such as 0.2, got {shown or 'none'}"
            )
        if sum(self.shares.values()) >= 1:
            raise OptionError(f"expected shares that leave something for {FIRST}, got {shown}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise OptionError(f"{self.pattern}: no regular expression ({error})") from None


def divide(
    dataset: Dataset, how: Shares, *, alike: Sequence[int] | None = None
) -> dict[str, Dataset]:
    """The parts of a data set, `FIRST` first; DatasetError where one would be empty.

    Source: iterative stratification, Sechidis et al., 2011. The rarest class is shared out first,
    to the part that still lacks most of it and has room. Pictures that belong together count as
    one: by the pattern, and those with the same number in `alike`, see `group_scenes`.
    """
    groups = _groups(dataset.samples, how.pattern, alike)
    # Pictures of each class, not boxes, of which a single picture may have most.
    holds = np.zeros((len(groups), len(dataset.labels.names) + 1), np.int64)
    for row, members in enumerate(groups):
        for member in members:
            holds[row, np.unique(dataset.samples[member].labels)] += 1
    # Column 0 would be background: pictures take its place, and are shared out last.
    holds[:, 0] = [len(members) for members in groups]
    shares = np.array([1 - sum(how.shares.values()), *how.shares.values()])
    part_of = _stratified(holds, shares, np.random.default_rng(how.seed))
    parts: dict[str, Dataset] = {}
    for number, name in enumerate((FIRST, *how.shares)):
        chosen = sorted(i for row in np.flatnonzero(part_of == number) for i in groups[row])
        if not chosen:
            wish = ", or --no-near where they only look alike" if alike is not None else ""
            raise DatasetError(
                f"{dataset.name}: nothing is left for {name} of "
                f"{counted(len(dataset), 'picture')} in {counted(len(groups), 'group')} that stay "
                f"together; expected more pictures or a larger share{wish}"
            )
        samples = tuple(dataset.samples[index] for index in chosen)
        parts[name] = dataclasses.replace(dataset, samples=samples)
    return parts


class _Together:
    """Which pictures stay together (a union of sets)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def of(self, index: int) -> int:
        """A number that all have that stay together with this one."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, one: int, other: int) -> None:
        """Keep two together, and with them all that stay with one of them."""
        self._parent[self.of(other)] = self.of(one)


def _groups(
    samples: Sequence[Sample], pattern: str | None, alike: Sequence[int] | None
) -> list[list[int]]:
    """Indices of the pictures that stay together, group by group."""
    keys: list[Sequence[object]] = [alike] if alike is not None else []
    if pattern is not None:
        texts = [re.search(pattern, sample.file_name) for sample in samples]
        if not any(texts):
            raise OptionError(
                f"{pattern}: matches no file name, such as {samples[0].file_name}; expected one "
                "that does"
            )
        keys.append([text and text[1 if text.re.groups else 0] for text in texts])
    together = _Together(len(samples))
    for of_samples in keys:
        firsts: dict[object, int] = {}
        for index, key in enumerate(of_samples):
            if key is not None:
                together.join(firsts.setdefault(key, index), index)
    groups: dict[int, list[int]] = {}
    for index in range(len(samples)):
        groups.setdefault(together.of(index), []).append(index)
    return list(groups.values())


def _stratified(
    holds: NDArray[np.int64], shares: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The part (G,) of each group, from what each holds (G, columns) and the parts' shares (P,)."""
    part_of = np.full(len(holds), -1)
    wanted = shares[:, None] * holds.sum(axis=0)
    while (left := np.flatnonzero(part_of < 0)).size:
        counts = holds[left].sum(axis=0)
        classes = np.flatnonzero(counts[1:]) + 1
        column = classes[counts[classes].argmin()] if classes.size else 0
        having = generator.permutation(left[holds[left, column] > 0])
        # The groups with most of it first, so that small ones can even out what those upset.
        for row in having[np.argsort(-holds[having, column], kind="stable")]:
            full = wanted[:, 0] <= 0
            chance = generator.random(len(shares))
            part = np.lexsort((chance, -wanted[:, 0], -wanted[:, column], full))[0]
            part_of[row] = part
            wanted[part] -= holds[row]
    return part_of


def group_scenes(
    dataset: Dataset, *, threads: int = 1, progress: Callable[[int], None] = lambda _: None
) -> list[int]:
    """A number for each picture, the same for pictures that look alike.

    They are compared by a difference hash of 128 bits: whether each cell of a grid of 8 x 8 is
    brighter than its neighbours to the right and below. Sizes, compression and small changes of
    brightness leave it as it is. A picture that cannot be read is alone. They are decoded in
    threads; `progress` is called with the number of those done.
    """
    hashes = np.zeros((len(dataset), 2 * _SIDE), np.uint8)
    readable = np.zeros(len(dataset), bool)
    made = overlapped(
        lambda sample: _hash(dataset, sample), dataset.samples, ahead=4 * threads, threads=threads
    )
    with closing(made):
        for number, bits in enumerate(made):
            if bits is not None:
                hashes[number], readable[number] = bits, True
            progress(number + 1)
    scenes = _Together(len(dataset))
    ones = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    bands = hashes.reshape(len(dataset), _BANDS, -1).copy().view(np.uint16)[..., 0]
    for band in bands.T:
        order = np.flatnonzero(readable)[np.argsort(band[readable], kind="stable")]
        for run in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for place, index in enumerate(run[:-1]):
                others = run[place + 1 :]
                distance = ones[hashes[others] ^ hashes[index]].sum(axis=1)
                for other in others[distance <= NEAR]:
                    scenes.join(int(index), int(other))
    return [scenes.of(index) for index in range(len(dataset))]


def _hash(dataset: Dataset, sample: Sample) -> NDArray[np.uint8] | None:
    """(16,) bytes of 128 bits; None: the picture cannot be read."""
    try:
        picture = dataset.read_square(sample, 8 * (_SIDE + 1))
    except ImageError:
        return None
    size = (_SIDE + 1, _SIDE + 1)
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX), np.int16)
    right = grey[:-1, :-1] > grey[:-1, 1:]
    below = grey[:-1, :-1] > grey[1:, :-1]
    return np.packbits(np.concatenate([right, below], axis=None))
