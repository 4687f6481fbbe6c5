"""COCO annotation files, written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ssd34.datasets.coco import ANNOTATIONS, SPLIT_PREFIX
from ssd34.datasets.convert.dropped import WrittenSplit
from ssd34.text import shortest


def coco_folder(split: str, *, divided: bool) -> str:
    """Where the pictures of a split lie: as in COCO's own files where there are several."""
    return split if divided else "images"


def write_coco(folder: Path, splits: Sequence[WrittenSplit]) -> None:
    """Write the annotation files: ``instances.json``, or ``annotations/instances_SPLIT.json``.

    Boxes are written as decimals that read as the same float32.
    """
    divided = len(splits) > 1
    if divided:
        (folder / "annotations").mkdir(exist_ok=True)
    for split in splits:
        file = f"annotations/{SPLIT_PREFIX}{split.name}.json" if divided else ANNOTATIONS
        pictures = PurePosixPath(coco_folder(split.name, divided=divided))
        text = json.dumps(_values(split, pictures), ensure_ascii=False)
        (folder / file).write_text(f"{text}\n", encoding="utf-8")


def _values(split: WrittenSplit, pictures: PurePosixPath) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    flagged = any(picture.sample.difficult.any() for picture in split.pictures)
    for picture in split.pictures:
        sample = picture.sample
        images.append(
            {
                "id": sample.image_id,
                "file_name": str(PurePosixPath(picture.path).relative_to(pictures)),
                "width": sample.width,
                "height": sample.height,
            }
        )
        rows = zip(
            sample.boxes, sample.labels, sample.areas, sample.crowd, sample.difficult, strict=True
        )
        for box, label, area, crowd, difficult in rows:
            left, top, right, bottom = map(shortest, box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": sample.image_id,
                "category_id": split.labels.category_id(int(label)),
                "bbox": [float(v) for v in (left, top, right - left, bottom - top)],
                "area": float(area),
                "iscrowd": int(crowd),
            }
            if flagged:
                annotation["difficult"] = int(difficult)
            annotations.append(annotation)
    names = zip(split.labels.names, split.labels.category_ids, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category, "name": name} for name, category in names],
    }
