"""COCO annotation files, read.

A data set is one of

- a folder or zip that holds ``instances.json`` and ``images/``;
- one as COCO has it: ``annotations/instances_val2017.json`` and ``val2017/``; its splits are what
  follows ``instances_``;
- one as Roboflow exports it: folders that each hold ``_annotations.coco.json`` and pictures;
- one that holds a COCO file of any name, or such a file for each split;
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
from ssd34.datasets.builder import LARGEST_SIDE, Findings, SampleBuilder, parse_whole, read_size
from ssd34.datasets.contents import Contents, locate, split_of
from ssd34.datasets.dataset import UNDIVIDED, WHOLE, Dataset, Kind, Layout, Sample
from ssd34.datasets.foreign import form_of_json
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import Files, FolderFiles, read_annotations

ANNOTATIONS = "instances.json"
SPLIT_PREFIX = "instances_"
ROBOFLOW = "_annotations.coco.json"

_LOOKED_FOR = 100
_LARGEST_ID = (1 << 63) - 1

MAX_JSON_BYTES = 1 << 30
"""COCO's largest annotation file has 450 MB."""


def find_coco(contents: Contents, name: str) -> Layout | None:
    """A COCO data set in a folder or zip by its usual names, if that is what it is."""
    files = contents.files
    if files.exists(ANNOTATIONS):
        return _layout(contents, name, {WHOLE: ANNOTATIONS})
    found = {s: f for f in files.names("annotations") if (s := _split_of(f))}
    if set(found) == {UNDIVIDED}:
        found = {WHOLE: found[UNDIVIDED]}
    found = found or {
        folder: f"{folder}/{ROBOFLOW}"
        for folder in files.folders()
        if files.exists(f"{folder}/{ROBOFLOW}")
    }
    return _layout(contents, name, found) if found else None


def find_any_coco(contents: Contents, name: str) -> Layout | None:
    """A COCO data set by what is in its .json files; DatasetError for several, no splits."""
    some = contents.ending(".json")[:_LOOKED_FOR]
    found = [file for file in some if is_coco(contents.files, file)]
    if len(found) < 2:
        return _layout(contents, name, {WHOLE: found[0]}) if found else None
    for part in (posixpath.basename, posixpath.dirname):
        words = [_split_in(part(file)) for file in found]
        if all(words) and len(set(words)) == len(words):
            return _layout(contents, name, dict(zip(words, found, strict=True)))
    raise DatasetError(
        f"{name}: holds several COCO files ({', '.join(found[:8])}); name one: {name}/{found[0]}"
    )


def is_coco(files: Files, file: str) -> bool:
    """Whether a .json begins as COCO's annotations do."""
    return form_of_json(files, file) == "COCO"


def _split_in(name: str) -> str:
    """The word of a name that is called as a split is, such as val2017 in coco_val2017.json."""
    words = posixpath.splitext(name)[0].replace("/", "_").replace("-", "_").split("_")
    return next((word for word in words if split_of(word)), "")


def _split_of(file: str) -> str:
    stem, suffix = posixpath.splitext(posixpath.basename(file))
    split = stem.removeprefix(SPLIT_PREFIX)
    return split if suffix == ".json" and split != stem else ""


def _layout(contents: Contents, name: str, found: dict[str, str]) -> Layout:
    """Splits and their files."""

    def read(split: str) -> Dataset:
        return read_coco_file(contents, found[split], f"{name}@{split}" if split else name)

    return Layout("coco", name, tuple(found), read)


def read_coco_file(contents: Contents, file: str, name: str) -> Dataset:
    """A COCO file inside a folder or zip, with the pictures that lie there; DatasetError where it
    is none, or nothing usable is in it."""
    files = contents.files
    values = _read_values(files, file, where=f"{files}: {file}")
    folder = posixpath.dirname(file)
    up, stem = posixpath.dirname(folder), posixpath.splitext(posixpath.basename(file))[0]
    split = _split_of(file)
    beside = [posixpath.join(folder, below) for below in ("images", "", "data", stem)]
    called = split or stem
    above = [posixpath.join(up, below) for below in (called, f"images/{called}", "images", "")]
    ordered = above + beside if split else beside + above
    places = list(dict.fromkeys(place.rstrip("/") for place in ordered))
    some = _some_files(values)
    holding = [f for f in places if any(map(files.below(f).exists, some))]
    if not holding:
        ends = ((n, f) for n in some for f in contents.find(n)[:1] if f.endswith(f"/{n}"))
        holding = [f.removesuffix(f"/{n}") for n, f in islice(ends, 1)]
    # Refused below with what to do, where a link leads out.
    linked = [f for f in places if files.below(f).leads_out]
    there = [f for f in places if files.is_folder(f)]
    inner = {f: Contents(files.below(f)) for f in there}
    near = [f for f in there if f and not holding and any(map(inner[f].find, some))]
    place = (holding or linked or near or there)[0]
    within = Contents(files.below(place))
    store = within.files
    missing = [n for n in some if not (store.exists(n) or store.is_lost_link(n))]
    outside = any(contents.find(n) and not within.find(n) for n in missing)
    if place in linked or not outside:
        return read_coco(values, within, name)
    return read_coco(values, contents, name, place=place if holding else "")


def open_coco_file(file: Path, name: str, *, pictures: Path | None = None) -> Layout:
    """One annotation file, its pictures in a folder or where they usually are beside it."""

    def read(_: str) -> Dataset:
        values = _read_values(FolderFiles(file.parent), file.name, where=str(file))
        return read_coco(values, Contents(FolderFiles(pictures or find_images(file, values))), name)

    return Layout("coco", name, (WHOLE,), read)


def find_images(annotations: Path, values: dict[str, Any]) -> Path:
    """The folder in which the pictures of an annotation file with these values usually are."""
    split = annotations.stem.removeprefix(SPLIT_PREFIX)
    folder = annotations.parent
    candidates = (
        folder / "images", folder.parent / split, folder.parent / "images" / split,
        folder / split, folder.parent / "images", folder,
    )  # fmt: skip
    some = _some_files(values)
    for place in candidates:
        if any(map(FolderFiles(place).exists, some)):
            return place
    for place in candidates:
        if place.is_dir() and any(map(Contents(FolderFiles(place)).find, some)):
            return place
    return next((c for c in candidates if c.is_dir()), folder)


def _some_files(values: dict[str, Any]) -> list[str]:
    """The first pictures, by which their folder is known; some may be missing."""
    entries = (entry for entry in values["images"] if isinstance(entry, dict))
    named = (str(entry["file_name"]) for entry in entries if entry.get("file_name"))
    return list(islice(named, _LOOKED_FOR))


def _read_values(files: Files, file: str, *, where: str) -> dict[str, Any]:
    try:
        values = json.loads(read_annotations(files, file, limit=MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: not JSON ({error}); expected COCO annotations") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(values, dict) or not all(isinstance(values.get(k), list) for k in lists):
        raise DatasetError(
            f"{where}: not a COCO annotation file; expected an object with the lists "
            f"{', '.join(lists)}"
        )
    return values


def read_coco(values: dict[str, Any], contents: Contents, name: str, *, place: str = "") -> Dataset:
    """A parsed COCO annotation file as a Dataset; broken pictures and boxes are left out and listed
    in `Dataset.problems`. DatasetError where no class or no usable picture is left.

    Pictures are in `contents`, where those are looked for that are not where the file says, and the
    sizes of those for which it says none. File names are relative to the folder `place` in it.
    """
    images, found = contents.files, Findings()
    annotation_ids: set[object] = set()
    labels = _labels(_usable_categories(values, found, name), name)
    by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in values["annotations"]:
        try:
            by_image[parse_whole(annotation["image_id"])].append(annotation)
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"annotation without a valid image_id: {annotation!r:.80}"
            found.leave_out(name, Kind.BROKEN_ENTRY, reason)
    samples: list[Sample] = []
    shared = _shared_ids(values["images"])
    seen: set[int] = set()
    listed = (entry for entry in values["images"] if isinstance(entry, dict))
    names = [str(entry["file_name"]) for entry in listed if "file_name" in entry]
    there = {named: (file, exact) for named, file, exact in locate(names, contents, place)}
    moved: dict[str, str] = {}
    for entry in values["images"]:
        try:
            image_id, written = parse_whole(entry["id"]), str(entry["file_name"])
            file_name, exact = there[written]
            if not (entry.get("width") or entry.get("height")):
                width, height = read_size(images, file_name) if file_name else (1, 1)
            else:
                width, height = parse_whole(entry["width"]), parse_whole(entry["height"])
        except ImageError as error:
            found.leave_out(file_name, Kind.UNREADABLE, error)
            continue
        except (KeyError, TypeError, ValueError, OverflowError):
            reason = f"image without id, file_name or size: {entry!r:.80}"
            found.leave_out(name, Kind.BROKEN_ENTRY, reason)
            continue
        if file_name and not exact:
            moved[written] = file_name
        file_name = file_name or written
        if not 0 <= image_id <= _LARGEST_ID:
            reason = f"image id {image_id} is not in 0 to {_LARGEST_ID}"
            found.leave_out(file_name, Kind.BROKEN_ENTRY, reason)
        elif image_id in shared or image_id in seen:
            reason = f"image id {image_id} is used twice"
            found.leave_out(file_name, Kind.IMAGE_ID_TWICE, reason)
        elif not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            reason = f"size {width!r:.20} x {height!r:.20}: expected 1 to {LARGEST_SIDE} pixels"
            found.leave_out(file_name, Kind.BROKEN_ENTRY, reason)
        elif not there[written][0]:
            found.leave_out(file_name, Kind.MISSING, _why_missing(written, contents))
        else:
            builder = SampleBuilder(file_name, width=width, height=height, findings=found)
            _add_boxes(builder, by_image.get(image_id, []), labels, annotation_ids)
            samples.append(builder.sample(image_id))
        seen.add(image_id)
    for image_id, lost in by_image.items():
        if image_id in shared:
            of = f"of image id {image_id}, which several pictures have"
            for annotation in lost:
                found.leave_out(name, Kind.ORPHAN, f"box {annotation.get('bbox')!r:.80} {of}")
        elif image_id not in seen:
            what = f"{len(lost)} annotations of image id {image_id}, which is not listed"
            found.leave_out(name, Kind.ORPHAN, what)
    if not samples and images.leads_out:
        raise DatasetError(
            f"{name}: {images} leads out of the data set's folder, which is not followed; "
            "give the annotations as FILE.json@FOLDER with the folder that it leads to"
        )
    found.assume_moved(name, moved, "picture", by="the file")
    remedy = f"put the pictures below {images}, or give the file as FILE.json@FOLDER"
    remedy = remedy if found.lacks_pictures else ""
    return found.dataset(name, labels, samples, images, of=len(values["images"]), remedy=remedy)


def _why_missing(name: str, contents: Contents) -> str:
    if contents.files.is_lost_link(name):
        return "the picture is a link that leads out of the folder or to nothing"
    meant = contents.find(name) if name else []
    if len(meant) > 1:
        return f"the picture may be {meant[0]} or {meant[1]}; correct file_name"
    if meant:
        return f"the picture may be {meant[0]}, and so may another's; correct file_name"
    return "the picture is missing"


def _usable_categories(values: dict[str, Any], found: Findings, name: str) -> list[Any]:
    """The categories but those that only group others: without a box, below no other, and named by
    others as what they belong to."""
    categories: list[Any] = values["categories"]
    entries = [entry for entry in categories if isinstance(entry, dict)]
    names = {str(entry.get("name")) for entry in entries}
    parents = {
        str(e.get("supercategory")) for e in entries if e.get("supercategory") != e.get("name")
    }
    used = {_id(a.get("category_id")) for a in values["annotations"] if isinstance(a, dict)}

    def only_groups(entry: dict[str, Any]) -> bool:
        own, above = str(entry.get("name")), str(entry.get("supercategory"))
        below_none = above == own or above not in names
        return own in parents and below_none and _id(entry.get("id")) not in used

    groups = [entry for entry in entries if only_groups(entry)]
    if not groups:
        return categories
    shown = ", ".join(str(entry.get("name")) for entry in groups)
    found.assume(name, f"no class: {shown:.200}, without a box and only a group of other classes")
    return [entry for entry in categories if entry not in groups]


def _id(value: Any) -> object:
    try:
        return parse_whole(value)
    except ValueError:
        return repr(value)


def _shared_ids(images: list[Any]) -> set[int]:
    """Image ids that stand for several pictures; an entry that is there twice is one."""
    pictures: defaultdict[int, set[str]] = defaultdict(set)
    for entry in images:
        with suppress(KeyError, TypeError, ValueError):
            pictures[parse_whole(entry["id"])].add(str(entry.get("file_name")))
    return {image_id for image_id, names in pictures.items() if len(names) > 1}


def _labels(categories: list[Any], name: str) -> LabelSet:
    try:
        # What is there twice, as in joined files, is one category.
        pairs = {
            (str(category["name"]), parse_whole(category["id"])): None for category in categories
        }
        if any(category["name"] is None for category in categories):
            raise KeyError("name")
        if any(not 0 <= number < _LARGEST_ID for _, number in pairs):
            raise DatasetError(
                f"{name}: a negative or huge category id; number categories from 0 or 1"
            )
        return LabelSet(tuple(n for n, _ in pairs), tuple(number for _, number in pairs))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{name}: a category without id or name ({error!r})") from None
    except OptionError as error:
        raise DatasetError(f"{name}: {error}") from None


def _add_boxes(
    builder: SampleBuilder,
    annotations: list[dict[str, Any]],
    labels: LabelSet,
    annotation_ids: set[object],
) -> None:
    """The boxes of a picture; the ids of annotations that were met are added to."""
    label_of_category = labels.label_of_category()
    for annotation in annotations:
        try:
            if not isinstance(annotation["bbox"], list):
                raise TypeError
            x, y, w, h = (float(value) for value in annotation["bbox"])
            if any(isinstance(value, bool) for value in annotation["bbox"]):
                raise TypeError
            category = parse_whole(annotation["category_id"])
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
        kept = builder.add(
            box, label_of_category[category], shown=annotation["bbox"],
            area=annotation.get("area"), crowd=annotation.get("iscrowd"),
            difficult=annotation.get("difficult"), score=annotation.get("score"),
        )  # fmt: skip
        number = annotation.get("id")
        with suppress(ValueError):
            number = parse_whole(number)
        if kept and isinstance(number, int | float | str):
            if number in annotation_ids:
                reason = f"annotation id {number!r:.40} is used twice"
                builder.wrong(Kind.ANNOTATION_ID_TWICE, reason, box=box, kept=True)
            annotation_ids.add(number)


class _NoPictures(FolderFiles):
    """Pictures that are somewhere else and not needed."""

    def exists(self, name: str) -> bool:
        return bool(name)

    def path(self, name: str) -> Path:
        raise ImageError(f"{name}: only the annotations were opened")


def read_annotations_alone(file: Path) -> Dataset:
    """A COCO annotation file whose pictures need not be there; DatasetError where it is none."""
    values = _read_values(FolderFiles(file.parent), file.name, where=str(file))
    return read_coco(values, Contents(_NoPictures(file.parent)), str(file))
