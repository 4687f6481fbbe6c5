"""One picture's boxes as a Sample, the same checks whatever format they came from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ssd34.core.labels import LabelSet
from ssd34.datasets.dataset import NO_PICTURES, Dataset, ImageStore, Kind, Problem, Sample
from ssd34.errors import DatasetError
from ssd34.files.tree import Files, number_files
from ssd34.images.read import read_image_size
from ssd34.text import counted

EDGE = 1.0
"""Pixels by which a box may reach over the edge unremarked: tools round differently."""

LARGEST_SIDE = (1 << 31) - 1
"""Pixels; no format of pictures has more."""

FLAGS = {
    "0": False, "0.0": False, "false": False, "": False, "none": False, "unspecified": False,
    "1": True, "1.0": True, "true": True,
}  # fmt: skip
"""Spellings of a flag; VOC's own files have 0, 1 and Unspecified."""


def parse_number(value: object) -> float:
    """A number of an annotation file, which may be text; NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def parse_whole(value: object) -> int:
    """A whole number of an annotation file: 1, 1.0 and "1" are the same. ValueError for another
    value; also for a fraction too large to be exact, as its neighbours read the same."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    raise ValueError(f"expected a whole number, got {value!r:.40}")


Box = tuple[float, float, float, float]


@dataclass
class Findings:
    """What is wrong, collected while reading: left out as a problem, or kept with a remark."""

    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    def leave_out(self, where: str, kind: Kind, reason: str | Exception) -> None:
        """Say what is left out, and why; an error may begin with the name again."""
        self.problems.append(Problem(where, str(reason).removeprefix(f"{where}: "), kind))

    def assume(self, where: str, reason: str) -> None:
        """Say what is taken for granted, which the user cannot see from the result."""
        self.remarks.append(Problem(where, reason, Kind.ASSUMED))

    def assume_moved(self, name: str, moved: Mapping[str, str], what: str, *, by: str) -> None:
        """Say what was taken for files that are not where `by` says, if there are such."""
        if moved:
            first, where = next(iter(moved.items()))
            many = f"{counted(len(moved), what)} not where {by} says"
            self.assume(name, f"{many}, taken by the end of the path: {first:.120} is {where}")

    @property
    def lacks_pictures(self) -> bool:
        """Whether some are missing."""
        return any(problem.kind == Kind.MISSING for problem in self.problems)

    def dataset(
        self,
        name: str,
        labels: LabelSet,
        samples: Sequence[Sample],
        images: ImageStore,
        *,
        of: int,
        remedy: str = "",
    ) -> Dataset:
        """The samples as a data set; DatasetError where there is none. `of`: how many pictures the
        files name, `remedy`: what to do then."""
        if not samples:
            first = f"first problem: {self.problems[0]}" if self.problems else NO_PICTURES
            first += f"; {remedy}" if remedy else ""
            raise DatasetError(f"{name}: no usable picture among {of}; {first}")
        boxes = sum(len(sample.boxes) for sample in samples)
        if boxes and all(sample.ignored.all() for sample in samples):
            flag = "iscrowd" if any(sample.crowd.any() for sample in samples) else "difficult"
            reason = (
                f"every box is flagged {flag} ({boxes}), so none counts as an object in training "
                "or evaluation; write 0 where it is one, or export boxes instead of masks"
            )
            self.remarks.append(Problem(name, reason, Kind.ALL_IGNORED))
        problems, remarks = tuple(self.problems), tuple(self.remarks)
        return Dataset(name, labels, tuple(samples), images, problems, remarks)


class SampleBuilder:
    """Collects the boxes of a picture of a size in pixels; unusable ones go to the findings."""

    def __init__(self, file_name: str, *, width: int, height: int, findings: Findings) -> None:
        self.file_name = file_name
        self.width = width
        self.height = height
        self.findings = findings
        self._rows: list[tuple[Box, int, float, bool, bool, float]] = []
        self._scored = False

    def wrong(
        self, kind: Kind, reason: str, *, place: str = "", box: Box | None = None,
        kept: bool = False,
    ) -> None:  # fmt: skip
        """Report something, about a box (xyxy, pixels) that may be kept; `place`: annotation file
        and line, where the picture's name does not say it."""
        finite = box if box and all(map(math.isfinite, box)) else None
        reason = f"{place}: {reason}" if place else reason
        problems = self.findings.remarks if kept else self.findings.problems
        problems.append(Problem(self.file_name, reason, kind, finite))

    def add(
        self,
        box: Box,
        label: int,
        *,
        shown: object,
        place: str = "",
        area: object = None,
        crowd: object = 0,
        difficult: object = 0,
        score: object = None,
    ) -> bool:
        """Add a box, xyxy in pixels, cut to the picture; False where it is not usable.

        The other values are as they stand in the file: how the box is shown in messages, its area
        in square pixels, the flags of COCO and VOC, the score. What cannot be one is remarked: the
        area is that of the box before it is cut then, as where there is none, a flag 0, a score 1.
        """
        left, top, right, bottom = box
        own = (right - left) * (bottom - top)
        width, height = float(self.width), float(self.height)
        cut = (min(max(0.0, left), width), min(max(0.0, top), height),
               max(0.0, min(width, right)), max(0.0, min(height, bottom)))  # fmt: skip
        single = np.array(cut, np.float32)
        report = partial(self.wrong, place=place, box=box)
        if not all(map(math.isfinite, (*box, own))):
            report(Kind.NOT_FINITE, f"box {shown} is not finite")
            return False
        if right <= left or bottom <= top:
            report(Kind.NO_AREA, f"box {shown} has no area")
            return False
        if not (single[:2] < single[2:]).all():
            report(Kind.OUTSIDE, f"box {shown} is outside the picture")
            return False
        remark = partial(report, Kind.VALUE, kept=True)
        given = own if area is None else parse_number(area)
        if not 0 < given <= max(own, self.width * self.height):
            remark(f"area {area!r:.40} cannot be one; that of the box, {own:g}, is taken")
            given = own
        flags = []
        for name, value in (("iscrowd", crowd), ("difficult", difficult)):
            flag = FLAGS.get(str(value).strip().lower())
            if flag is None:
                remark(f"{name} {value!r:.40} of box {shown}: expected 0 or 1; 0 is taken")
            flags.append(bool(flag))
        sure = 1.0 if score is None else parse_number(score)
        self._scored |= score is not None
        if not 0 <= sure <= 1:
            remark(f"score {score!r:.40} of box {shown}: expected 0 to 1; 1 is taken")
            sure = 1.0
        self._rows.append((cut, label, given, flags[0], flags[1], sure))
        over = max(abs(a - b) for a, b in zip(box, cut, strict=True))
        if over > EDGE:
            reason = f"box {shown} reaches {over:.1f} pixels over the edge"
            report(Kind.OVER_EDGE, reason, kept=True)
        return True

    def sample(self, image_id: int) -> Sample:
        """What has been collected."""
        boxes, labels, areas, crowd, difficult, scores = (
            zip(*self._rows, strict=True) if self._rows else ((),) * 6
        )
        return Sample(
            file_name=self.file_name,
            image_id=image_id,
            width=self.width,
            height=self.height,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            areas=np.array(areas, np.float64),
            crowd=np.array(crowd, np.bool_),
            difficult=np.array(difficult, np.bool_),
            scores=np.array(scores, np.float32) if self._scored else None,
        )


def read_size(files: Files, name: str) -> tuple[int, int]:
    """Width and height of a picture, from its header; ImageError where it is missing or none."""
    with files.opened(name) as stream:
        return read_image_size(stream, name)


def number_samples(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Samples of a format without picture numbers, numbered by `number_files`."""
    ids = number_files([sample.file_name for sample in samples])
    return tuple(
        dataclasses.replace(sample, image_id=image_id)
        for sample, image_id in zip(samples, ids, strict=True)
    )
