"""Pascal VOC data sets, read.

The devkit's layout is ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``, one XML file a picture.
Corners are pixel numbers that count from 1 and belong to the box: ``xmin`` 1, ``xmax`` 1 is a box
one pixel wide at the left edge, here 0 to 1. Fractions are read as they are.
"""

from __future__ import annotations

import functools
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ssd34.core.labels import LabelSet, numbered
from ssd34.datasets.builder import LARGEST_SIDE, Findings, SampleBuilder, size_of, with_ids
from ssd34.datasets.dataset import NO_PICTURES, WHOLE, Dataset, Kind, Layout, Problem, Sample
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import Files, read_annotations, read_lines
from ssd34.images.read import SUFFIXES

ANNOTATIONS, PICTURES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"
CLASSES = "classes.txt"
"""One class name a line, where a data set has this file; the devkit has none."""

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""The classes of the VOC challenges, in their order."""

COCO_NAMES = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
    "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
"""VOC's names of classes that COCO calls otherwise."""

MAX_XML_BYTES = 8 << 20
MAX_LIST_BYTES = 64 << 20


@dataclass(frozen=True)
class _Places:
    """The folders of a data set and the lists of its splits."""

    annotations: str
    pictures: str
    lists: dict[str, str]


def find_voc(files: Files, name: str) -> Layout | None:
    """A VOC data set in a folder or zip, if that is what it is.

    Raises:
        DatasetError: several are there.
    """
    if files.is_folder(ANNOTATIONS):
        return _devkit(files, name)
    for around in ("", "VOCdevkit"):
        sets = [f for f in files.folders(around) if files.is_folder(f"{f}/{ANNOTATIONS}")]
        if len(sets) > 1:
            raise DatasetError(
                f"{name}: holds several VOC sets ({', '.join(sets)}); name one: {name}/{sets[0]}"
            )
        if sets:
            return _devkit(files.below(sets[0]), name)
    return _flat(files, name)


def _devkit(files: Files, name: str) -> Layout:
    lists = {PurePosixPath(n).stem: n for n in files.names(SPLITS) if n.endswith(".txt")}
    # Beside train.txt the devkit has cat_train.txt, which says what pictures show a cat.
    of_class = {
        stem: split
        for stem in lists
        for split in lists
        if stem.endswith(f"_{split}") and _says_whether(files, lists[stem])
    }
    lists = {stem: file for stem, file in lists.items() if stem not in of_class}
    named = sorted({stem.removesuffix(f"_{split}") for stem, split in of_class.items()})
    folders = (PICTURES, "images", "Images")
    pictures = next((folder for folder in folders if files.is_folder(folder)), ANNOTATIONS)
    places = _Places(ANNOTATIONS, pictures, lists)

    @functools.cache
    def classes() -> LabelSet:
        return _classes(files, name, named, _xml_files(files, [ANNOTATIONS]))

    def read(split: str) -> Dataset:
        return _read(files, places, split, name, classes())

    return Layout("voc", name, tuple(lists) or (WHOLE,), read)


def _says_whether(files: Files, file: str) -> bool:
    """Whether a list has a second column: 1, -1, or 0 for difficult."""
    lines = (line.split() for line in read_lines(files, file, limit=MAX_LIST_BYTES))
    first = next((words for words in lines if words), [])
    return len(first) == 2 and first[1] in ("-1", "0", "1")


def _flat(files: Files, name: str) -> Layout | None:
    """XML files beside their pictures, in this folder or in one a split."""
    parts = [WHOLE] if _xml_files(files, [""]) else files.folders()
    splits = [part for part in parts if _is_annotation(files, _xml_files(files, [part]))]
    if not splits:
        return None

    @functools.cache
    def classes() -> LabelSet:
        return _classes(files, name, (), _xml_files(files, splits))

    def read(split: str) -> Dataset:
        places = _Places("", "", {})
        return _read(files.below(split), places, WHOLE, _title(name, split), classes())

    return Layout("voc", name, tuple(splits), read)


def _xml_files(files: Files, folders: Iterable[str]) -> list[str]:
    return [n for folder in folders for n in files.names(folder) if n.lower().endswith(".xml")]


def _is_annotation(files: Files, names: Sequence[str]) -> bool:
    try:
        return bool(names) and _parse(files, names[0]).tag == "annotation"
    except DatasetError:
        return False


def _parse(files: Files, name: str) -> Element:
    return parse_xml(read_annotations(files, name, limit=MAX_XML_BYTES), name)


def _title(name: str, split: str) -> str:
    return f"{name}@{split}" if split else name


def _classes(files: Files, name: str, named: Sequence[str], xml_files: Sequence[str]) -> LabelSet:
    """The classes: as `CLASSES` lists them, else by the devkit's lists of pictures a class, else
    those that occur in any split, so that all splits have the same."""
    try:
        if files.exists(CLASSES):
            lines = read_lines(files, CLASSES, limit=MAX_XML_BYTES)
            return numbered(line.strip() for line in lines if line.strip())
        found = set(named) or _occurring(files, xml_files)
        return numbered(NAMES if found <= set(NAMES) else sorted(found))
    except OptionError as error:
        raise DatasetError(f"{name}: {error}") from None


def _occurring(files: Files, xml_files: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for file in xml_files:
        try:
            found |= {_text(o, "name") for o in _parse(files, file).iterfind("object")}
        except DatasetError:
            continue  # reported when its picture is read
    return found - {""}


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _read(files: Files, places: _Places, split: str, name: str, labels: LabelSet) -> Dataset:
    found = Findings()
    if split in places.lists:
        file = places.lists[split]
        lines = read_lines(files, file, limit=MAX_LIST_BYTES)
        counts = Counter(_stem(files, places, line) for line in lines if line.strip())
        found.problems += [
            Problem(file, f"{stem} is listed {count} times", Kind.PICTURE_TWICE)
            for stem, count in counts.items()
            if count > 1
        ]
        entries = [(stem, posixpath.join(places.annotations, f"{stem}.xml")) for stem in counts]
    else:
        names = _xml_files(files, [places.annotations])
        entries = [(PurePosixPath(name).stem, name) for name in names]
    samples: list[Sample] = []
    annotated: dict[str, list[str]] = {}
    pictures = files.below(places.pictures)
    for stem, file in entries:
        try:
            root = _annotation(files, file)
        except DatasetError as error:
            reason = str(error).removeprefix(f"{file}: ")
            found.problems.append(Problem(file, reason, Kind.BROKEN_ENTRY))
            continue
        picture = _picture(pictures, stem, _text(root, "filename"))
        try:
            width, height = _size(root, pictures, picture)
        except ImageError as error:
            reason = str(error).removeprefix(f"{picture}: ")
            kind = Kind.UNREADABLE if pictures.exists(picture) else Kind.MISSING
            found.problems.append(Problem(picture, reason, kind))
            continue
        annotated.setdefault(picture, []).append(file)
        builder = SampleBuilder(picture, width=width, height=height, findings=found)
        _add_objects(builder, root, file, labels)
        samples.append(builder.sample(0))
    twice = {picture: given for picture, given in annotated.items() if len(given) > 1}
    found.problems += [
        Problem(picture, f"is annotated in {' and in '.join(given)}; left out", Kind.PICTURE_TWICE)
        for picture, given in twice.items()
    ]
    samples = [sample for sample in samples if sample.file_name not in twice]
    title = _title(name, split)
    if not samples:
        first = f"first problem: {found.problems[0]}" if found.problems else NO_PICTURES
        raise DatasetError(f"{title}: no usable picture among {len(entries)}; {first}")
    return Dataset(
        title, labels, with_ids(samples), pictures, tuple(found.problems), tuple(found.remarks)
    )


def _stem(files: Files, places: _Places, line: str) -> str:
    """A line of a list: a name that may hold blanks, or one with something after it."""
    whole = line.strip()
    there = files.exists(posixpath.join(places.annotations, f"{whole}.xml"))
    return whole if there else whole.split()[0]


def _annotation(files: Files, file: str) -> Element:
    root = _parse(files, file)
    if root.tag != "annotation":
        raise DatasetError(f"{file}: expected an <annotation>, got <{root.tag:.40}>")
    return root


def _add_objects(builder: SampleBuilder, root: Element, file: str, labels: LabelSet) -> None:
    for number, element in enumerate(root.iterfind("object"), start=1):
        place = f"{file} object {number}"
        name = _text(element, "name")
        corners = [_text(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        shown = f"{', '.join(corners):.80}"
        try:
            left, top, right, bottom = map(float, corners)
        except ValueError:
            builder.wrong(Kind.BROKEN_ENTRY, f"box of no valid form: {shown}", place=place)
            continue
        box = (left - 1, top - 1, right, bottom)
        if name not in labels.names:
            builder.wrong(
                Kind.UNKNOWN_CLASS, f"box of unknown class {name!r:.80}", place=place, box=box
            )
            continue
        builder.add(
            box,
            labels.label(name),
            shown=shown,
            place=place,
            difficult=_text(element, "difficult"),
        )


def _picture(pictures: Files, stem: str, file_name: str) -> str:
    """The picture's name: that of the annotation with any ending, else what it says."""
    usual = PurePosixPath(file_name).suffix or ".jpg"
    suffixes = (usual, ".jpg", *sorted(SUFFIXES))
    candidates = [f"{stem}{suffix}" for suffix in suffixes]
    candidates += [f"{stem}{suffix.upper()}" for suffix in suffixes] + [file_name]
    found = (candidate for candidate in candidates if pictures.exists(candidate))
    return next(found, candidates[0])


def _size(root: Element, pictures: Files, picture: str) -> tuple[int, int]:
    """Width and height as the annotation says, else, as some tools write 0, as the picture has.

    Raises:
        ImageError: the picture is missing or broken.
    """
    try:
        width, height = (int(float(_text(root, f"size/{side}"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        width = height = 0
    sides = (width, height)
    if all(0 < side <= LARGEST_SIDE for side in sides) and pictures.exists(picture):
        return sides
    return size_of(pictures, picture)


def parse_xml(data: bytes, where: str) -> Element:
    """The root element of an XML document.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        DatasetError: not well-formed, or it declares a document type.
    """
    builder = TreeBuilder()

    def refuse(*_: object) -> None:
        raise DatasetError(f"{where}: declares a document type (DOCTYPE); take that line out")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DatasetError(f"{where}: not XML ({error})") from None
