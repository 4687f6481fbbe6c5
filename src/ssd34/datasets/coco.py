"""COCO annotation files, read.

A data set is one of

- a folder or zip that holds ``instances.json`` and ``images/``;
- one as COCO has it: ``annotations/instances_val2017.json`` and ``val2017/``; its splits are what
  follows ``instances_``;
- one as Roboflow exports it: folders that each hold ``_annotations.coco.json`` and pictures;
- a ``.json`` with its pictures beside it, or elsewhere.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ssd34.core.labels import LabelSet
from ssd34.datasets.builder import LARGEST_SIDE, Findings, SampleBuilder, whole_of
from ssd34.datasets.dataset import WHOLE, Dataset, ImageStore, Kind, Layout, Problem, Sample
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import Files, FolderFiles, read_annotations

ANNOTATIONS = "instances.json"
SPLIT_PREFIX = "instances_"
ROBOFLOW = "_annotations.coco.json"

_LOOKED_FOR = 100
_LARGEST_ID = (1 << 63) - 1

MAX_JSON_BYTES = 1 << 30
"""COCO's largest annotation file has 450 MB."""


def find_coco(files: Files, name: str) -> Layout | None:
    """A COCO data set in a folder or zip, if that is what it is."""
    found: dict[str, tuple[str, tuple[str, ...]]]
    if files.exists(ANNOTATIONS):
        found = {WHOLE: (ANNOTATIONS, ("images", ""))}
    else:
        found = {
            split: (file, (split, f"images/{split}", "images", "annotations/images"))
            for file in files.names("annotations")
            if (split := _split_of(file))
        } or {
            folder: (f"{folder}/{ROBOFLOW}", (folder,))
            for folder in files.folders()
            if files.exists(f"{folder}/{ROBOFLOW}")
        }
    if not found:
        return None

    def read(split: str) -> Dataset:
        file, folders = found[split]
        values = _parse(read_annotations(files, file, limit=MAX_JSON_BYTES), f"{files}: {file}")
        some = _some_files(values)
        holding = [f for f in folders if any(map(files.below(f).exists, some))]
        # Refused below with what to do, where a link leads out.
        linked = [f for f in folders if files.below(f).leads_out]
        there = [f for f in folders if files.is_folder(f)]
        folder = (holding or linked or there or folders)[0]
        return read_coco(values, files.below(folder), f"{name}@{split}" if split else name)

    return Layout("coco", name, tuple(found), read)


def _split_of(file: str) -> str:
    stem, suffix = posixpath.splitext(posixpath.basename(file))
    split = stem.removeprefix(SPLIT_PREFIX)
    return split if suffix == ".json" and split != stem else ""


def open_coco_file(file: Path, name: str, *, pictures: Path | None = None) -> Layout:
    """One annotation file, its pictures in a folder or where they usually are beside it."""

    def read(_: str) -> Dataset:
        data = read_annotations(FolderFiles(file.parent), file.name, limit=MAX_JSON_BYTES)
        values = _parse(data, str(file))
        return read_coco(values, FolderFiles(pictures or _find_images(file, values)), name)

    return Layout("coco", name, (WHOLE,), read)


def _find_images(annotations: Path, values: dict[str, Any]) -> Path:
    split = annotations.stem.removeprefix(SPLIT_PREFIX)
    folder = annotations.parent
    candidates = (
        folder / "images", folder.parent / split, folder.parent / "images" / split,
        folder / split, folder.parent / "images", folder,
    )  # fmt: skip
    some = _some_files(values)
    holding = (place for place in candidates if any(map(FolderFiles(place).exists, some)))
    return next(holding, None) or next((c for c in candidates if c.is_dir()), folder)


def _some_files(values: dict[str, Any]) -> list[str]:
    """The first pictures, by which their folder is known; some may be missing."""
    entries = (entry for entry in values["images"] if isinstance(entry, dict))
    named = (str(entry["file_name"]) for entry in entries if entry.get("file_name"))
    return list(islice(named, _LOOKED_FOR))


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
    found = Findings()
    annotation_ids: set[object] = set()
    problems = found.problems
    labels = _labels(values["categories"], name)
    by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in values["annotations"]:
        try:
            by_image[whole_of(annotation["image_id"])].append(annotation)
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"annotation without a valid image_id: {annotation!r:.80}"
            problems.append(Problem(name, reason, Kind.BROKEN_ENTRY))
    samples: list[Sample] = []
    shared = _shared_ids(values["images"])
    seen: set[int] = set()
    for entry in values["images"]:
        try:
            image_id, file_name = whole_of(entry["id"]), str(entry["file_name"])
            width, height = whole_of(entry["width"]), whole_of(entry["height"])
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"image without id, file_name or size: {entry!r:.80}"
            problems.append(Problem(name, reason, Kind.BROKEN_ENTRY))
            continue
        if not 0 <= image_id <= _LARGEST_ID:
            reason = f"image id {image_id} is not in 0 to {_LARGEST_ID}"
            problems.append(Problem(file_name, reason, Kind.BROKEN_ENTRY))
        elif image_id in shared or image_id in seen:
            reason = f"image id {image_id} is used twice"
            problems.append(Problem(file_name, reason, Kind.IMAGE_ID_TWICE))
        elif not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            reason = f"size {width!r:.20} x {height!r:.20}: expected 1 to {LARGEST_SIDE} pixels"
            problems.append(Problem(file_name, reason, Kind.BROKEN_ENTRY))
        elif not images.exists(file_name):
            reason = "the picture is missing"
            if isinstance(images, FolderFiles) and images.is_lost_link(file_name):
                reason = "the picture is a link that leads out of the folder or to nothing"
            problems.append(Problem(file_name, reason, Kind.MISSING))
        else:
            annotations = by_image.get(image_id, [])
            samples.append(
                _sample(
                    annotations, image_id, file_name, width, height, labels, found, annotation_ids
                )
            )
        seen.add(image_id)
    for image_id, annotations in by_image.items():
        if image_id in shared:
            problems += [
                Problem(name, f"box {a.get('bbox')!r:.80} of image id {image_id}, which several "
                        "pictures have", Kind.ORPHAN)
                for a in annotations
            ]  # fmt: skip
        elif image_id not in seen:
            what = f"annotations of image id {image_id}, which is not listed"
            problems.append(Problem(name, f"{len(annotations)} {what}", Kind.ORPHAN))
    if not samples and isinstance(images, FolderFiles) and images.leads_out:
        raise DatasetError(
            f"{name}: {images.root} leads out of the data set's folder, which is not followed; "
            "give the annotations as FILE.json@FOLDER with the folder that it leads to"
        )
    return found.dataset(name, labels, samples, images, of=len(values["images"]))


def _shared_ids(images: list[Any]) -> set[int]:
    """Image ids that stand for several pictures; an entry that is there twice is one."""
    pictures: defaultdict[int, set[str]] = defaultdict(set)
    for entry in images:
        with suppress(KeyError, TypeError, ValueError):
            pictures[whole_of(entry["id"])].add(str(entry.get("file_name")))
    return {image_id for image_id, names in pictures.items() if len(names) > 1}


def _labels(categories: list[Any], name: str) -> LabelSet:
    try:
        # What is there twice, as in joined files, is one category.
        pairs = {(str(category["name"]), whole_of(category["id"])): None for category in categories}
        if any(not 0 <= number < _LARGEST_ID for _, number in pairs):
            raise DatasetError(
                f"{name}: a negative or huge category id; number categories from 0 or 1"
            )
        return LabelSet(tuple(n for n, _ in pairs), tuple(number for _, number in pairs))
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
    found: Findings,
    annotation_ids: set[object],
) -> Sample:
    label_of_category = labels.label_of_category()
    builder = SampleBuilder(file_name, width=width, height=height, findings=found)
    for annotation in annotations:
        try:
            if not isinstance(annotation["bbox"], list):
                raise TypeError
            x, y, w, h = (float(value) for value in annotation["bbox"])
            if any(isinstance(value, bool) for value in annotation["bbox"]):
                raise TypeError
            category = whole_of(annotation["category_id"])
        except KeyError as error:
            builder.wrong(Kind.BROKEN_ENTRY, f"box without {error.args[0]}: {annotation!r:.80}")
            continue
        except (TypeError, ValueError, OverflowError):
            builder.wrong(Kind.BROKEN_ENTRY, f"box of no valid form: {annotation!r:.80}")
            continue
        box = (x, y, x + w, y + h)
        if category not in label_of_category:
            reason = f"box {annotation['bbox']} of category id {category}, which is not listed"
            builder.wrong(Kind.UNKNOWN_CLASS, reason, box=box)
            continue
        label = label_of_category[category]
        kept = builder.add(
            box, label, shown=annotation["bbox"], area=annotation.get("area"),
            crowd=annotation.get("iscrowd"), difficult=annotation.get("difficult"),
            score=annotation.get("score"),
        )  # fmt: skip
        number = annotation.get("id")
        with suppress(ValueError):
            number = whole_of(number)
        if kept and isinstance(number, int | float | str):
            if number in annotation_ids:
                reason = f"annotation id {number!r:.40} is used twice"
                builder.wrong(Kind.ANNOTATION_ID_TWICE, reason, box=box, kept=True)
            annotation_ids.add(number)
    return builder.sample(image_id)


class _NoPictures(ImageStore):
    """Pictures that are somewhere else and not needed."""

    def exists(self, file_name: str) -> bool:
        return bool(file_name)

    def read_bytes(self, file_name: str) -> bytes:
        raise ImageError(f"{file_name}: only the annotations were opened")


def read_annotations_alone(file: Path) -> Dataset:
    """A COCO annotation file whose pictures need not be there, for what only looks at boxes.

    Raises:
        DatasetError: not such a file.
    """
    data = read_annotations(FolderFiles(file.parent), file.name, limit=MAX_JSON_BYTES)
    return read_coco(_parse(data, str(file)), _NoPictures(), str(file))
