"""COCO annotation files.

A data set is given as one path:

- ``FILE.zip`` or a folder that holds ``instances.json`` and ``images/``;
- ``FILE.json``, its pictures found beside it (``images/``, COCO's ``../val2017/`` for
  ``annotations/instances_val2017.json``, or the folder of the file itself);
- ``FILE.json@FOLDER`` where they lie elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssd34.core.labels import LabelSet
from ssd34.data.dataset import (
    BROKEN_ZIP,
    Dataset,
    FolderImages,
    ImageStore,
    Kind,
    Problem,
    Sample,
    ZipImages,
)
from ssd34.errors import DatasetError, OptionError

ANNOTATIONS = "instances.json"
FORMS = (
    f"a zip or folder that holds {ANNOTATIONS} and images/, a COCO .json with its pictures "
    "beside it, or FILE.json@FOLDER"
)

EDGE = 1.0
"""Pixels by which a box may reach over the edge unremarked: tools round differently."""


def open_dataset(path: str | Path) -> Dataset:
    """Read a data set in any of this module's forms.

    Raises:
        DatasetError: nothing usable is there; the message says which forms are read.
    """
    text = str(path)
    before, separator, after = text.partition(".json@")
    apart = bool(separator) and not os.path.exists(text)
    source, images = (Path(f"{before}.json"), after) if apart else (Path(text), "")
    if not os.path.exists(source):
        raise DatasetError(f"{source}: no such data set; expected {FORMS}")
    if images and not Path(images).is_dir():
        raise DatasetError(f"{images}: no such folder of pictures for {source}")
    if source.is_dir():
        file = source / ANNOTATIONS
        if not file.is_file():
            raise DatasetError(f"{source}: holds no {ANNOTATIONS}; expected {FORMS}")
        values = _parse(file.read_bytes(), str(file))
        folder = _holding(values, source / "images", source) or source / "images"
        return read_coco(values, FolderImages(folder), text)
    if zipfile.is_zipfile(source):
        return _read_zip(source)
    if source.suffix.lower() != ".json":
        raise DatasetError(f"{source}: not a zip, a folder or a .json; expected {FORMS}")
    values = _parse(source.read_bytes(), str(source))
    store = FolderImages(Path(images) if images else _find_images(source, values))
    return read_coco(values, store, text)


def _read_zip(source: Path) -> Dataset:
    try:
        with zipfile.ZipFile(source) as archive:
            # The archive may hold one folder around everything.
            members = [n for n in archive.namelist() if n.split("/")[-1] == ANNOTATIONS]
            if not members:
                raise DatasetError(f"{source}: holds no {ANNOTATIONS}; expected {FORMS}")
            member = min(members, key=lambda name: name.count("/"))
            data = archive.read(member)
    except BROKEN_ZIP as error:
        raise DatasetError(f"{source}: broken archive ({error}); fetch it again") from None
    values = _parse(data, f"{source}:{member}")
    around = member.removesuffix(ANNOTATIONS)
    store = ZipImages(source, f"{around}images/")
    first = _first_file(values)
    if not store.exists(first) and ZipImages(source, around).exists(first):
        store = ZipImages(source, around)
    return read_coco(values, store, str(source))


def _find_images(annotations: Path, values: dict[str, Any]) -> Path:
    split = annotations.stem.removeprefix("instances_")
    folder = annotations.parent
    candidates = (
        folder / "images", folder.parent / split, folder.parent / "images" / split,
        folder / split, folder.parent / "images", folder,
    )  # fmt: skip
    found = _holding(values, *candidates)
    return found or next((c for c in candidates if c.is_dir()), folder)


def _holding(values: dict[str, Any], *folders: Path) -> Path | None:
    """The first of the folders that holds the first picture."""
    first = _first_file(values)
    return next((folder for folder in folders if FolderImages(folder).exists(first)), None)


def _first_file(values: dict[str, Any]) -> str:
    images = values["images"] or [{}]
    return str(images[0].get("file_name", "")) if isinstance(images[0], dict) else ""


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: not JSON ({error}); expected COCO annotations") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(values, dict) or not all(isinstance(values.get(k), list) for k in lists):
        raise DatasetError(
            f"{where}: not a COCO annotation file; expected an object with the lists "
            f"{', '.join(lists)}"
        )
    return values


def read_coco(values: dict[str, Any], images: ImageStore, name: str) -> Dataset:
    """A parsed COCO annotation file as a Dataset.

    Broken pictures and boxes are left out and listed in `Dataset.problems`.

    Args:
        values: the parsed JSON.
        images: where its pictures are.
        name: for messages.

    Raises:
        DatasetError: no class or no usable picture is left.
    """
    found = _Found()
    problems = found.problems
    labels = _labels(values["categories"], name)
    by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in values["annotations"]:
        try:
            by_image[int(annotation["image_id"])].append(annotation)
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"annotation without a valid image_id: {annotation!r:.80}"
            problems.append(Problem(name, reason, Kind.BROKEN_ENTRY))
    samples: list[Sample] = []
    seen: set[int] = set()
    for entry in values["images"]:
        try:
            image_id, file_name = int(entry["id"]), str(entry["file_name"])
            width, height = int(entry["width"]), int(entry["height"])
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"image without id, file_name or size: {entry!r:.80}"
            problems.append(Problem(name, reason, Kind.BROKEN_ENTRY))
            continue
        if image_id < 0:
            reason = f"image id {image_id} is negative"
            problems.append(Problem(file_name, reason, Kind.BROKEN_ENTRY))
        elif image_id in seen:
            reason = f"image id {image_id} is used twice"
            problems.append(Problem(file_name, reason, Kind.IMAGE_ID_TWICE))
        elif width < 1 or height < 1:
            reason = f"size {width} x {height} is empty"
            problems.append(Problem(file_name, reason, Kind.BROKEN_ENTRY))
        elif not images.exists(file_name):
            problems.append(Problem(file_name, "the picture is missing", Kind.MISSING))
        else:
            annotations = by_image.get(image_id, [])
            samples.append(_sample(annotations, image_id, file_name, width, height, labels, found))
        seen.add(image_id)
    problems += [
        Problem(name, f"annotations of image id {image_id}, which is not listed", Kind.ORPHAN)
        for image_id in by_image
        if image_id not in seen
    ]
    if not samples:
        first = f"; first problem: {problems[0]}" if problems else ""
        raise DatasetError(f"{name}: no usable picture among {len(values['images'])}{first}")
    return Dataset(name, labels, tuple(samples), images, tuple(problems), tuple(found.remarks))


@dataclass
class _Found:
    """What is wrong, collected while reading.

    Attributes:
        problems: left out.
        remarks: kept.
        annotation_ids: all so far.
    """

    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)
    annotation_ids: set[int | str] = field(default_factory=set)


def _labels(categories: list[Any], name: str) -> LabelSet:
    try:
        if any(int(category["id"]) < 0 for category in categories):
            raise DatasetError(f"{name}: a negative category id; number categories from 0 or 1")
        return LabelSet(
            tuple(str(category["name"]) for category in categories),
            tuple(int(category["id"]) for category in categories),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{name}: a category without id or name ({error!r})") from None
    except OptionError as error:
        raise DatasetError(f"{name}: {error}") from None


def _sample(
    annotations: list[dict[str, Any]],
    image_id: int,
    file_name: str,
    width: int,
    height: int,
    labels: LabelSet,
    found: _Found,
) -> Sample:
    label_of_category = labels.label_of_category()
    boxes, classes, areas, crowd, difficult = [], [], [], [], []

    def wrong(kind: Kind, reason: str, *, left_out: bool = True) -> None:
        ends = (x, y, x + w, y + h)
        box = ends if all(map(math.isfinite, ends)) else None
        problems = found.problems if left_out else found.remarks
        problems.append(Problem(file_name, reason, kind, box))

    for annotation in annotations:
        x = y = w = h = math.nan
        try:
            x, y, w, h = (float(value) for value in annotation["bbox"])
            category = int(annotation["category_id"])
            given_area = annotation.get("area")
            area = w * h if given_area is None else float(given_area)
            flags = [bool(int(annotation.get(flag) or 0)) for flag in ("iscrowd", "difficult")]
        except KeyError as error:
            wrong(Kind.BROKEN_ENTRY, f"box without {error.args[0]}: {annotation!r:.80}")
            continue
        except (TypeError, ValueError, OverflowError):
            wrong(Kind.BROKEN_ENTRY, f"box of no valid form: {annotation!r:.80}")
            continue
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(float(width), x + w), min(float(height), y + h)
        bbox = annotation["bbox"]
        if category not in label_of_category:
            wrong(Kind.UNKNOWN_CLASS, f"box {bbox} of category id {category}, which is not listed")
        elif not all(map(math.isfinite, (x, y, w, h, area))):
            wrong(Kind.NOT_FINITE, f"box {bbox} is not finite")
        elif w <= 0 or h <= 0:
            wrong(Kind.NO_AREA, f"box {bbox} has no area")
        elif not (np.float32(left) < np.float32(right) and np.float32(top) < np.float32(bottom)):
            wrong(Kind.OUTSIDE, f"box {bbox} is outside the picture")
        else:
            boxes.append((left, top, right, bottom))
            classes.append(label_of_category[category])
            areas.append(area)
            crowd.append(flags[0])
            difficult.append(flags[1])
            over = max(left - x, top - y, x + w - right, y + h - bottom)
            if over > EDGE:
                reason = f"box {bbox} reaches {over:.1f} pixels over the edge"
                wrong(Kind.OVER_EDGE, reason, left_out=False)
            number = annotation.get("id")
            if isinstance(number, int | str):
                if number in found.annotation_ids:
                    reason = f"annotation id {number!r:.40} is used twice"
                    wrong(Kind.ANNOTATION_ID_TWICE, reason, left_out=False)
                found.annotation_ids.add(number)
    return Sample(
        file_name=file_name,
        image_id=image_id,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(classes, np.int64),
        areas=np.array(areas, np.float64),
        crowd=np.array(crowd, np.bool_),
        difficult=np.array(difficult, np.bool_),
    )
