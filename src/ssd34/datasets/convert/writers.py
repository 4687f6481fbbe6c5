"""COCO, Pascal VOC and YOLO data sets, written, and what is lost in each form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from operator import ne
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from ssd34.core.boxes import area
from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.builder import number_samples
from ssd34.datasets.coco import SPLIT_PREFIX
from ssd34.datasets.dataset import UNDIVIDED, Dataset, Sample
from ssd34.datasets.voc import BACKGROUND, CLASSES, LABEL_MAP
from ssd34.datasets.voc_places import ANNOTATIONS as VOC_ANNOTATIONS
from ssd34.datasets.voc_places import SPLITS
from ssd34.datasets.yolo import USUAL, name_label_file
from ssd34.errors import require
from ssd34.files.tree import path_of
from ssd34.text import plain, shortest

_AREA_TOLERANCE = 0.01


class Dropped(StrEnum):
    """What a format cannot hold, or holds in another way."""

    CROWD_DIFFICULT = "crowd boxes became difficult boxes"
    IGNORED_LEFT_OUT = "crowd and difficult boxes were left out"
    IGNORED_OBJECTS = "crowd and difficult boxes became ordinary ones"
    AREAS = "areas that differ from the box's by more than 1 % became the box's"
    FRACTIONS = "boxes have fractions of pixels, which some VOC tools do not read"
    NAMES = "pictures got another file name"
    IMAGE_IDS = "pictures will be read with another image id"
    CATEGORY_IDS = "classes will be read with another category id"
    SPLIT_NAMES = "splits got another name"


def drop_unholdable(
    sample: Sample, form: str, *, ignored_as_objects: bool
) -> tuple[Sample, Counter[Dropped]]:
    """What a format, coco, voc or yolo, can hold of a sample, and what is lost;
    `ignored_as_objects` as in `ssd34.datasets.convert.convert.Options`."""
    losses: Counter[Dropped] = Counter()
    if form == "coco":
        return sample, losses
    if form == "voc":
        losses[Dropped.CROWD_DIFFICULT] = int(sample.crowd.sum())
        fractions = (sample.boxes != np.round(sample.boxes)).any(axis=1)
        losses[Dropped.FRACTIONS] = int(fractions.sum())
    elif ignored_as_objects:
        losses[Dropped.IGNORED_OBJECTS] = int(sample.ignored.sum())
    else:
        losses[Dropped.IGNORED_LEFT_OUT] = int(sample.ignored.sum())
        sample = sample.of(~sample.ignored)
    areas = area(sample.boxes.astype(np.float64))
    changed = np.abs(areas - sample.areas) > _AREA_TOLERANCE * areas
    losses[Dropped.AREAS] = int(changed.sum())
    return sample, losses


def count_renumbered(split: Dataset, dataset: Dataset, form: str) -> Counter[Dropped]:
    """Names and numbers that change from a data set to a split of what is written."""
    names = {s.image_id: PurePosixPath(s.file_name).name for s in dataset.samples}
    renamed = sum(names[s.image_id] != PurePosixPath(s.file_name).name for s in split.samples)
    losses = Counter({Dropped.NAMES: renamed})
    if form != "coco":
        samples = list(split.samples)
        if form == "yolo":  # which has no order but that of the names
            samples.sort(key=lambda sample: sample.file_name)
        again = zip(samples, number_samples(samples), strict=True)
        losses[Dropped.IMAGE_IDS] = sum(a.image_id != b.image_id for a, b in again)
        ids = number_classes(dataset.labels.names).category_ids
        losses[Dropped.CATEGORY_IDS] = sum(map(ne, ids, dataset.labels.category_ids))
    return losses


# A split is a data set that has its name, "" where there is just one, and pictures that are already
# in their place, by their paths below the folder.


def name_folder(split: str) -> str:
    """Where the pictures of a split lie, in COCO and YOLO."""
    return f"images/{split or UNDIVIDED}"


def write_coco(folder: Path, splits: Sequence[Dataset]) -> None:
    """Write ``annotations/instances_SPLIT.json``, as other tools look for it; boxes are written as
    decimals that read as the same float32."""
    (folder / "annotations").mkdir()
    for split in splits:
        file = f"annotations/{SPLIT_PREFIX}{split.name or UNDIVIDED}.json"
        text = json.dumps(_values(split), ensure_ascii=False)
        (folder / file).write_text(f"{text}\n", encoding="utf-8")


def _values(split: Dataset) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    flagged = any(sample.difficult.any() for sample in split.samples)
    for sample in split.samples:
        name = sample.file_name.removeprefix(f"{name_folder(split.name)}/")
        size = {"width": sample.width, "height": sample.height}
        images.append({"id": sample.image_id, "file_name": name, **size})
        scores = [None] * len(sample.boxes) if sample.scores is None else sample.scores
        rows = zip(
            sample.boxes, sample.labels, sample.areas, sample.crowd, sample.difficult, scores,
            strict=True,
        )  # fmt: skip
        for box, label, square, crowd, difficult, score in rows:
            left, top, right, bottom = map(shortest, box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": sample.image_id,
                "category_id": split.labels.category_id(int(label)),
                "bbox": [float(v) for v in (left, top, right - left, bottom - top)],
                "area": float(square),
                "iscrowd": int(crowd),
            }
            if flagged:
                annotation["difficult"] = int(difficult)
            if score is not None:
                annotation["score"] = float(shortest(score))
            annotations.append(annotation)
    names = zip(split.labels.names, split.labels.category_ids, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category, "name": name} for name, category in names],
    }


def write_voc(folder: Path, splits: Sequence[Dataset]) -> None:
    """Write ``Annotations``, ``ImageSets/Main``, ``classes.txt`` and, for other tools, the same as
    ``labelmap.txt`` beside the pictures.

    Corners count from 1 and belong to the box. Where a box has fractions of pixels, so have they;
    they read as the same float32, but for what is nearer than 1e-8 pixels to the edge.
    """
    (folder / VOC_ANNOTATIONS).mkdir()
    (folder / SPLITS).mkdir(parents=True)
    written: set[str] = set()
    for split in splits:
        stems = [PurePosixPath(sample.file_name).stem for sample in split.samples]
        (folder / SPLITS / path_of(f"{split.name}.txt")).write_text(_lines(stems), encoding="utf-8")
        for stem, sample in zip(stems, split.samples, strict=True):
            if stem not in written:
                tree = _annotation(sample, split.labels)
                tree.write(folder / VOC_ANNOTATIONS / path_of(f"{stem}.xml"), encoding="utf-8")
            written.add(stem)
    names = splits[0].labels.names
    (folder / CLASSES).write_text(_lines(names), encoding="utf-8")
    background = [] if BACKGROUND in names else [BACKGROUND]
    rows = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in (*background, *names))]
    (folder / LABEL_MAP).write_text(_lines(rows), encoding="utf-8")


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _annotation(sample: Sample, labels: LabelSet) -> ElementTree[Element]:
    root = Element("annotation")
    picture = PurePosixPath(sample.file_name)
    _add(root, "folder", picture.parent.name)
    _add(root, "filename", picture.name)
    size = SubElement(root, "size")
    for name, value in (("width", sample.width), ("height", sample.height), ("depth", 3)):
        _add(size, name, str(value))
    _add(root, "segmented", "0")
    for box, label, ignored in zip(sample.boxes, sample.labels, sample.ignored, strict=True):
        thing = SubElement(root, "object")
        _add(thing, "name", labels.name(int(label)))
        _add(thing, "pose", "Unspecified")
        _add(thing, "truncated", "0")
        _add(thing, "difficult", str(int(ignored)))
        corners = SubElement(thing, "bndbox")
        left, top, right, bottom = map(shortest, box)
        sides = (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom))
        for name, side in sides:
            _add(corners, name, plain(side))
    indent(root, "\t")
    return ElementTree(root)


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def write_yolo(folder: Path, splits: Sequence[Dataset]) -> None:
    """Write ``data.yaml`` and ``labels`` beside the pictures.

    Fractions have all the digits that a double has, so that boxes read as the same float32, but
    for what is nearer than 1e-8 pixels to the edge. Every picture gets a label file, so that one
    without boxes is told from one whose labels got lost. MissingExtraError without PyYAML.
    """
    yaml = require("yaml", extra="data", why="writing a YOLO data set")
    labels = splits[0].labels
    for split in splits:
        for sample in split.samples:
            file = folder / path_of(name_label_file(sample.file_name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_rows(sample), encoding="ascii")
    # Without `path`, readers take the folder of the file.
    folders = {split.name: name_folder(split.name) for split in splits}
    config = {**folders, "nc": len(labels), "names": dict(enumerate(labels.names))}
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
