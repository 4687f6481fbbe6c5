"""Class names and the two numberings of COCO.

A network numbers its classes 1..N without gaps, 0 being background (*labels*). Annotation files
number them as they like (*category ids*); COCO's 80 classes have ids 1..90 with ten gaps.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ssd34.errors import OptionError
from ssd34.text import one_line


@dataclass(frozen=True)
class LabelSet:
    """Class names in label order and the category ids that stand for them in files: label ``i + 1``
    is ``names[i]`` and is written as ``category_ids[i]``."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise OptionError("a label set needs at least one class name, got none")
        for what, values in (("class name", self.names), ("category id", self.category_ids)):
            if len(set(values)) != len(values):
                twice = next(v for v in values if values.count(v) > 1)
                raise OptionError(f"each {what} must occur once, got {twice!r} twice")
        for name in self.names:
            if not name.isascii() and name.encode(errors="ignore").decode() != name:
                raise OptionError(
                    f"class name {name!r} holds half a character (a lone surrogate), which no "
                    "file can hold; correct it"
                )
        if len(self.names) != len(self.category_ids):
            raise OptionError(
                f"expected one category id per class name, got {len(self.category_ids)} ids "
                f"for {len(self.names)} names"
            )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelSet:
        """A label set whose category ids are 1..N, in the order given."""
        ordered = tuple(names)
        return cls(ordered, tuple(range(1, len(ordered) + 1)))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, label: int) -> str:
        """The name of a label (1..N)."""
        if not 1 <= label <= len(self.names):
            raise OptionError(f"expected a label in 1..{len(self.names)}, got {label}")
        return self.names[label - 1]

    def label(self, name: str) -> int:
        """The label (1..N) of a class name; OptionError, with close names, if there is none."""
        try:
            return self.names.index(name) + 1
        except ValueError:
            close = difflib.get_close_matches(name, self.names, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {self.preview()}"
            raise OptionError(f"unknown class name {name!r}; {hint}") from None

    def category_id(self, label: int) -> int:
        """The id that files use for a label (1..N)."""
        self.name(label)
        return self.category_ids[label - 1]

    def label_of_category(self) -> dict[int, int]:
        """Category id to label, as a new dictionary."""
        return {category: label for label, category in enumerate(self.category_ids, start=1)}

    def preview(self, limit: int = 8) -> str:
        """The first names in a line, for messages, long ones shortened."""
        more = len(self.names) - limit
        shown = ", ".join(one_line(name, 60) for name in self.names[:limit])
        return shown + (f" and {more} more" if more > 0 else "")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LabelSet:
        """The inverse of `to_dict`."""
        return cls(tuple(map(str, values["names"])), tuple(map(int, values["category_ids"])))


_COCO: tuple[tuple[int, str], ...] = (
    (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"),
    (6, "bus"), (7, "train"), (8, "truck"), (9, "boat"), (10, "traffic light"),
    (11, "fire hydrant"), (13, "stop sign"), (14, "parking meter"), (15, "bench"),
    (16, "bird"), (17, "cat"), (18, "dog"), (19, "horse"), (20, "sheep"), (21, "cow"),
    (22, "elephant"), (23, "bear"), (24, "zebra"), (25, "giraffe"), (27, "backpack"),
    (28, "umbrella"), (31, "handbag"), (32, "tie"), (33, "suitcase"), (34, "frisbee"),
    (35, "skis"), (36, "snowboard"), (37, "sports ball"), (38, "kite"),
    (39, "baseball bat"), (40, "baseball glove"), (41, "skateboard"), (42, "surfboard"),
    (43, "tennis racket"), (44, "bottle"), (46, "wine glass"), (47, "cup"), (48, "fork"),
    (49, "knife"), (50, "spoon"), (51, "bowl"), (52, "banana"), (53, "apple"),
    (54, "sandwich"), (55, "orange"), (56, "broccoli"), (57, "carrot"), (58, "hot dog"),
    (59, "pizza"), (60, "donut"), (61, "cake"), (62, "chair"), (63, "couch"),
    (64, "potted plant"), (65, "bed"), (67, "dining table"), (70, "toilet"), (72, "tv"),
    (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"), (77, "cell phone"),
    (78, "microwave"), (79, "oven"), (80, "toaster"), (81, "sink"), (82, "refrigerator"),
    (84, "book"), (85, "clock"), (86, "vase"), (87, "scissors"), (88, "teddy bear"),
    (89, "hair drier"), (90, "toothbrush"),
)  # fmt: skip

COCO_LABELS = LabelSet(
    names=tuple(name for _, name in _COCO), category_ids=tuple(category for category, _ in _COCO)
)
"""The 80 classes of COCO 2017 with their official sparse category ids."""


def number_classes(names: Iterable[str]) -> LabelSet:
    """Category ids for classes that come without: COCO's where all are COCO's, else 1..N."""
    ordered = tuple(names)
    official = dict(zip(COCO_LABELS.names, COCO_LABELS.category_ids, strict=True))
    if not set(ordered) <= set(official):
        return LabelSet.from_names(ordered)
    return LabelSet(ordered, tuple(official[name] for name in ordered))
