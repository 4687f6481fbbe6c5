"""What a reader finds in a place before it reads the boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssd34.data.dataset import Dataset
from ssd34.errors import DatasetError

WHOLE = ""
"""The name of the only split of a data set that is not divided."""


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Attributes:
        format: coco, voc or yolo.
        name: for messages.
        splits: its parts, such as train and val; just `WHOLE` where it is not divided.
        read: opens a split.
    """

    format: str
    name: str
    splits: tuple[str, ...]
    read: Callable[[str], Dataset]

    def open(self, split: str | None = None) -> Dataset:
        """The pictures of one split.

        Raises:
            DatasetError: there is no such split; there are several and none is named; nothing
                usable is in it.
        """
        if split is None and len(self.splits) == 1:
            return self.read(self.splits[0])
        if split in self.splits:
            return self.read(split or WHOLE)
        if self.splits == (WHOLE,):
            raise DatasetError(f"{self.name}: is not divided into splits; leave @{split} out")
        known = ", ".join(self.splits)
        if split is None:
            raise DatasetError(
                f"{self.name}: holds the splits {known}; name one: {self.name}@{self.splits[0]}"
            )
        raise DatasetError(f"{self.name}: has no split {split!r}; expected one of {known}")
