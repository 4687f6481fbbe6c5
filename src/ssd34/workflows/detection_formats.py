"""Detections of many pictures as text: table, JSON, COCO results, CSV, YOLO."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from ssd34.core.detections import CSV_HEADER, Detections
from ssd34.files.tree import number_files, text_of

FORMATS = ("table", "json", "coco", "csv", "yolo")


@dataclass(frozen=True)
class Looked:
    """A picture, its file or its address, and what was found in it."""

    file: Path | str
    relative: Path
    detections: Detections


@dataclass
class DetectRun:
    """A run: its model as asked for, all its pictures in order, each once, those that were looked
    at, and those that could not be read, and why."""

    model: str
    files: Sequence[Path | str]
    looked: list[Looked] = field(default_factory=list)
    failed: list[tuple[Path | str, str]] = field(default_factory=list)


def as_text(run: DetectRun, form: str, *, width: int | None = None) -> str:
    """The whole run in one of `FORMATS`. Width in characters, for the table."""
    if form == "json":
        return json.dumps(as_json(run), indent=1) + "\n"
    if form == "coco":
        return json.dumps(as_coco(run)) + "\n"
    if form == "csv":
        lines = [looked.detections.to_csv(text_of(looked.file)) for looked in run.looked]
        return f"{CSV_HEADER}\n" + "".join(lines)
    if form == "yolo":
        return "".join(
            f"# {text_of(looked.file)}\n{looked.detections.to_yolo()}" for looked in run.looked
        )
    return _table(run, width)


def as_json(run: DetectRun) -> dict[str, Any]:
    """A JSON-ready form: model, pictures with their detections, and what could not be read."""
    return {
        "model": run.model,
        "pictures": [{"file": text_of(k.file), **k.detections.to_dict()} for k in run.looked],
        "failed": [{"file": text_of(file), "reason": reason} for file, reason in run.failed],
    }


def as_coco(run: DetectRun) -> list[dict[str, Any]]:
    """COCO results; the image id is that of `number_files`, unreadable ones included. File and
    class are named as well, which ``evaluate --detections`` goes by."""
    numbers = number_files([_name_of(file) for file in run.files])
    ids = dict(zip(run.files, numbers, strict=True))
    return [
        {**result, "file_name": text_of(looked.file), "category_name": found.name}
        for looked in run.looked
        for found, result in zip(
            looked.detections, looked.detections.to_coco(ids[looked.file]), strict=True
        )
    ]


def _name_of(file: Path | str) -> str:
    return Path(urlsplit(file).path if isinstance(file, str) else file).name


def _table(run: DetectRun, width: int | None) -> str:
    table = Table("picture", "object", "score", "left", "top", "right", "bottom")
    for column in table.columns[2:]:
        column.justify = "right"
    table.columns[0].overflow = "fold"
    times = Counter(looked.relative for looked in run.looked)
    for looked in run.looked:
        file = text_of(looked.relative if times[looked.relative] == 1 else looked.file)
        if not len(looked.detections):
            table.add_row(file, "-", *[""] * 5)
        for found in looked.detections:
            table.add_row(file, found.name, f"{found.score:.0%}", *(f"{v:.0f}" for v in found.box))
            file = ""
    console = Console(
        file=io.StringIO(), width=width or 100, highlight=False, markup=False, emoji=False
    )
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)
