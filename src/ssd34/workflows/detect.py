"""What ``detect`` does with pictures: look at one after the other, save them with what was found,
and write that as a table, JSON, COCO results, CSV or YOLO."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ssd34.core.detections import CSV_HEADER, Detections
from ssd34.core.preprocess import FAST
from ssd34.errors import ImageError, OptionError
from ssd34.files.atomic import write_text, written_whole
from ssd34.files.tree import number_files, number_names, text_of
from ssd34.images.draw import check_side, draw
from ssd34.images.read import SUFFIXES, LargeImageError, fetched, make_reopenable, read_picture
from ssd34.images.sources import PictureFile
from ssd34.machine import overlapped
from ssd34.runtime.detector import Detector, PreparedPicture
from ssd34.text import counted

FORMATS = ("table", "json", "coco", "csv", "yolo")
SAVED_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}

Targets = Mapping[Path | str, Path]
"""A file to write for each picture's `PictureFile.source`."""


@dataclass(frozen=True)
class Looked:
    """A picture, its file or its address, and what was found in it."""

    file: Path | str
    relative: Path
    detections: Detections


@dataclass
class DetectRun:
    """A run: its model as asked for, all its pictures in order, each once, those that were looked
    at, those that could not be read, and why, and how many could not be saved."""

    model: str
    files: Sequence[Path | str]
    looked: list[Looked] = field(default_factory=list)
    failed: list[tuple[Path | str, str]] = field(default_factory=list)
    unsaved: int = 0


def choose_saved(pictures: Sequence[PictureFile], place: Path) -> Targets:
    """Where each picture is saved: below a folder its relative path, numbered where two would be
    the same. One picture may be given a file instead.

    Raises:
        OptionError: the place is a file already, or a name that does not fit, or a picture would
            be written over one of the sources.
    """
    ending = place.suffix.lower()
    if place.exists() and not place.is_dir():  # perhaps a picture that was to be looked at
        raise OptionError(f"--save {place}: exists already; name a folder, or remove it first")
    if not place.is_dir() and ending in SUFFIXES:
        if len(pictures) > 1 or ending not in SAVED_SUFFIXES:
            raise OptionError(
                f"--save {place}: expected a folder, or for one picture alone a name that ends in "
                f"{', '.join(SAVED_SUFFIXES)}; there are {len(pictures)}"
            )
        targets: Targets = {pictures[0].source: place}
    else:
        names = (
            name if name.suffix.lower() in SAVED_SUFFIXES else name.with_name(f"{name.name}.png")
            for name in (picture.relative for picture in pictures)
        )
        targets = _below(place, pictures, names)
    originals = {os.path.realpath(picture.path) for picture in pictures if not picture.url}
    for target in targets.values():
        if os.path.realpath(target) in originals:
            raise OptionError(f"--save {place}: would overwrite {target}; choose another name")
    return targets


def choose_label_files(pictures: Sequence[PictureFile], folder: Path) -> Targets:
    """Where the boxes of each picture go, numbered where two would be the same."""
    return _below(folder, pictures, (one.relative.with_suffix(".txt") for one in pictures))


def _below(folder: Path, pictures: Sequence[PictureFile], names: Iterable[Path]) -> Targets:
    numbered = number_names(names)
    return {one.source: folder / name for one, name in zip(pictures, numbered, strict=True)}


def detect_pictures(
    pictures: Sequence[PictureFile],
    detector: Detector,
    *,
    model: str,
    score: float,
    wanted: Sequence[int],
    max_pixels: int,
    saved: Targets,
    skipped: Callable[[ImageError], None],
    progress: Callable[[int], None],
) -> DetectRun:
    """Find objects in every picture, and save it with its boxes.

    Args:
        pictures: each once.
        detector: made of `model`, which is what the user calls it.
        score: leave out what scores less.
        wanted: labels to keep; empty: all.
        max_pixels: refuse pictures with more.
        saved: where each goes; empty: nowhere.
        skipped: is told of a picture that cannot be read, where there are others, or not be saved.
        progress: is told how many are done.

    Raises:
        ImageError: no picture can be read.
    """
    stopped = threading.Event()
    run = DetectRun(model=model, files=[picture.source for picture in pictures])

    def prepare(picture: PictureFile) -> tuple[PreparedPicture, Image.Image | None] | ImageError:
        """In a thread, while the network works on the picture before."""
        try:
            source = fetched(picture.url, stopped=stopped) if picture.url else picture.path
            if not saved:
                return detector.prepare(source, max_pixels=max_pixels), None
            if isinstance(source, Path):
                source = make_reopenable(source)
            image = read_picture(source, max_pixels=max_pixels)
            # The fast way is not that of the whole picture, which is only drawn on.
            seen = source if detector.preprocessing == FAST else image
            return detector.prepare(seen, max_pixels=max_pixels), image
        except LargeImageError as error:
            return ImageError(f"{error}, or raise the limit with --max-pixels")
        except ImageError as error:
            return error

    coming = overlapped(prepare, pictures, ahead=1, threads=1, stopped=stopped)
    with closing(coming):
        for done, (picture, ready) in enumerate(zip(pictures, coming, strict=True), start=1):
            if isinstance(ready, ImageError):
                if len(pictures) == 1:
                    raise ready
                run.failed.append((picture.source, str(ready)))
                skipped(ready)
            else:
                prepared, image = ready
                found = detector.find(prepared, score=score)
                if wanted:
                    found = found.where(np.isin(found.labels, wanted))
                run.looked.append(Looked(picture.source, picture.relative, found))
                if image is not None:
                    try:
                        _save(saved[picture.source], image, found)
                    except ImageError as error:
                        run.unsaved += 1
                        skipped(error)
            progress(done)
    if not run.looked:
        raise ImageError(f"none of {counted(len(pictures), 'picture')} could be read, see above")
    return run


def _save(target: Path, image: Image.Image, found: Detections) -> None:
    """ImageError: its format cannot hold the picture."""
    form = SAVED_SUFFIXES[target.suffix.lower()]
    check_side(
        image, form, what=f"{target} is not written",
        remedy="a picture alone may be saved under a name ending in .png",
    )  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        draw(np.asarray(image), found).save(temporary, form, quality=92)


def write_run(run: DetectRun, form: str, output: Path, label_files: Targets) -> None:
    """Write the whole run in one of `FORMATS`, as YOLO into a file for each picture."""
    if form != "yolo":
        write_text(output, as_text(run, form))
        return
    for looked in run.looked:
        target = label_files[looked.file]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, looked.detections.to_yolo())


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
