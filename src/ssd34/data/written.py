"""What a writer writes."""

from __future__ import annotations

from dataclasses import dataclass

from ssd34.core.labels import LabelSet
from ssd34.data.dataset import Sample


@dataclass(frozen=True)
class WrittenPicture:
    """A picture that is already in its place, and its boxes.

    Attributes:
        path: below the data set's folder.
        sample: its boxes, without those that the format cannot hold.
    """

    path: str
    sample: Sample


@dataclass(frozen=True)
class WrittenSplit:
    """One split.

    Attributes:
        name: "" where the data set is not divided.
        labels: its classes.
        pictures: in order.
    """

    name: str
    labels: LabelSet
    pictures: tuple[WrittenPicture, ...]
