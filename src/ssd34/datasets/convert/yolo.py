"""YOLO data sets, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssd34.datasets.convert.dropped import WrittenSplit
from ssd34.datasets.dataset import Sample
from ssd34.datasets.yolo import USUAL, label_name
from ssd34.errors import require
from ssd34.files.tree import path_of
from ssd34.text import plain, shortest


def yolo_folder(split: str) -> str:
    """Where the pictures of a split lie."""
    return f"images/{split}"


def write_yolo(folder: Path, splits: Sequence[WrittenSplit]) -> None:
    """Write ``data.yaml`` and ``labels`` beside the pictures.

    Fractions have all the digits that a double has, so that boxes read as the same float32, but
    for what is nearer than 1e-8 pixels to the edge. Every picture gets a label file, so that one
    without boxes is told from one whose labels got lost.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    yaml = require("yaml", extra="data", why="writing a YOLO data set")
    labels = splits[0].labels
    for split in splits:
        for picture in split.pictures:
            file = folder / path_of(label_name(picture.path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_rows(picture.sample), encoding="ascii")
    # Without `path`, readers take the folder of the file.
    config = {split.name: yolo_folder(split.name) for split in splits} | {
        "nc": len(labels),
        "names": dict(enumerate(labels.names)),
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / USUAL[0]).write_text(text, encoding="utf-8")


def _rows(sample: Sample) -> str:
    rows = []
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        left, top, right, bottom = (float(shortest(side)) for side in box)
        fractions = (
            (left + right) / 2 / sample.width, (top + bottom) / 2 / sample.height,
            (right - left) / sample.width, (bottom - top) / sample.height,
        )  # fmt: skip
        rows.append(" ".join([str(int(label) - 1), *map(plain, fractions)]) + "\n")
    return "".join(rows)
