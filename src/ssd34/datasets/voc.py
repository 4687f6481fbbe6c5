"""Pascal VOC data sets, read.

The devkit's layout is ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``, one XML file a picture.
Corners are pixel numbers that count from 1 and belong to the box: ``xmin`` 1, ``xmax`` 1 is a box
one pixel wide at the left edge, here 0 to 1. Fractions are read as they are. Most other writers
count edges of pixels from 0: where any corner of the set is below 1, all are taken as they are.

A picture without an XML file is one without objects.
"""

from __future__ import annotations

import functools
import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.builder import (
    LARGEST_SIDE,
    Findings,
    SampleBuilder,
    number_samples,
    parse_number,
    read_size,
)
from ssd34.datasets.contents import Contents, is_below, name_below
from ssd34.datasets.dataset import Dataset, Kind, Layout, Sample
from ssd34.datasets.voc_places import (
    ANNOTATIONS,
    PICTURES,
    VocFound,
    VocPlace,
    VocSplit,
    find_usual_voc,
    find_xml_below,
    parse_annotation,
    read_list,
    text_in,
)
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import Files
from ssd34.text import counted

CLASSES = "classes.txt"
"""One class name a line, where a data set has this file; the devkit has none."""

LABEL_MAP = "labelmap.txt"
"""As datumaro and CVAT list the classes: ``name:colour:parts:actions``, background first."""

BACKGROUND = "background"

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


def find_voc(contents: Contents, name: str) -> Layout | None:
    """A VOC data set by its files' usual names; DatasetError where several are there."""
    there = find_usual_voc(contents, name)
    return _layout(there, name) if there else None


def find_any_voc(contents: Contents, name: str) -> Layout | None:
    """A VOC data set by XML files anywhere below."""
    there = find_xml_below(contents)
    return _layout(there, name) if there else None


def _layout(there: VocFound, name: str) -> Layout:
    splits = there.splits
    places = list(dict.fromkeys(split.place for split in splits.values()))

    @functools.cache
    def survey() -> _Survey:
        return _look_through(places)

    def read(split: str) -> Dataset:
        found = Findings()
        title = f"{name}@{split}" if split else name
        labels = _classes(there, name, survey(), found)
        return _read({**splits, **there.others}[split], title, labels, survey(), found)

    return Layout("voc", name, tuple(splits), read, tuple(there.others))


@dataclass(frozen=True)
class _Survey:
    """What all splits together tell.

    Attributes:
        names: of objects.
        below_one: how many of the `objects` have a corner below 1.
        files: how many XML files there are.
        broken: what is wrong with the first of these that is broken; empty: none is.
    """

    names: frozenset[str]
    below_one: int
    objects: int
    files: int
    broken: str


def _look_through(places: Sequence[VocPlace]) -> _Survey:
    names: set[str] = set()
    below_one = objects = files = 0
    broken = ""
    for place in places:
        for file in place.xml:
            files += 1
            try:
                root = parse_annotation(place.files, file)
            except DatasetError as error:
                broken = broken or str(error)
                continue  # reported when its picture is read
            for thing in root.iterfind("object"):
                objects += 1
                names.add(text_in(thing, "name"))
                sides = [parse_number(text_in(thing, f"bndbox/{k}")) for k in ("xmin", "ymin")]
                below_one += any(math.isfinite(side) and side < 1 for side in sides)
    return _Survey(frozenset(names - {""}), below_one, objects, files, broken)


def _classes(there: VocFound, name: str, survey: _Survey, found: Findings) -> LabelSet:
    """The classes: as `CLASSES` or `LABEL_MAP` list them, else by the devkit's lists of pictures a
    class, else those that occur in any split, so that all splits have the same."""
    files = there.contents.files
    try:
        if files.exists(CLASSES):
            return number_classes(read_list(files, CLASSES))
        if files.exists(LABEL_MAP):
            lines = [line for line in read_list(files, LABEL_MAP) if not line.startswith("#")]
            # A name may hold a colon itself.
            listed = [line.rsplit(":", 3)[0] if line.count(":") > 2 else line for line in lines]
            if BACKGROUND in listed and BACKGROUND not in survey.names:
                listed.remove(BACKGROUND)
                found.assume(name, f"no class: {BACKGROUND} of {LABEL_MAP}, which no object is")
            return number_classes(listed)
        occurring = frozenset(there.named) or survey.names
        if not occurring:
            why = f"; first problem: {survey.broken}" if survey.broken else ""
            raise DatasetError(
                f"{name}: no object in {counted(survey.files, 'XML file')}, so no class; name the "
                f"classes in {CLASSES}, a line each{why}"
            )
        if not occurring <= set(NAMES):
            return number_classes(sorted(occurring))
        if len(occurring) < len(NAMES):
            found.assume(
                name,
                f"classes: VOC's {len(NAMES)}, as all {len(occurring)} that occur are among them; "
                f"write {CLASSES}, a name a line, where others are meant",
            )
        return number_classes(NAMES)
    except OptionError as error:
        raise DatasetError(f"{name}: {error}") from None


def _read(
    split: VocSplit, title: str, labels: LabelSet, survey: _Survey, found: Findings
) -> Dataset:
    place = split.place
    pictures = place.files.below(place.folder)
    bare: list[str] = []
    if split.listed:
        counts = Counter(place.stem_of(line) for line in read_list(place.files, split.listed))
        entries = []
        for stem, count in counts.items():
            if count > 1:
                reason = f"{stem} is listed {count} times"
                found.leave_out(split.listed, Kind.PICTURE_TWICE, reason)
            picture = place.picture_of(stem)
            if stem not in place.xml_of and picture:
                bare.append(name_below(picture, place.folder))
                continue
            usual = posixpath.join(place.annotations, f"{stem}.xml")
            entries += [(stem, file) for file in place.xml_of.get(stem, [usual])]
    else:
        entries = [(place.stem(file), file) for file in place.xml if split.holds(file)]
    samples: list[Sample] = []
    annotated: dict[str, list[str]] = {}
    broken: set[str] = set()
    for stem, file in entries:
        there = place.pictures.get(file, "")
        try:
            root = parse_annotation(place.files, file)
            if root.tag != "annotation":
                raise DatasetError(f"expected an <annotation>, got <{root.tag:.40}>")
        except DatasetError as error:
            found.leave_out(file, Kind.BROKEN_ENTRY, error)
            broken.add(there)
            continue
        suffix = PurePosixPath(text_in(root, "filename")).suffix or ".jpg"
        there = place.picture_of(stem, suffix=suffix) or there
        picture = name_below(there, place.folder) if there else f"{stem}{suffix}"
        try:
            width, height = _size(root, pictures, picture)
        except ImageError as error:
            kind = Kind.UNREADABLE if pictures.exists(picture) else Kind.MISSING
            found.leave_out(picture, kind, error)
            broken.add(there)
            continue
        annotated.setdefault(picture, []).append(file)
        builder = SampleBuilder(picture, width=width, height=height, findings=found)
        _add_objects(builder, root, file, labels, first=0 if survey.below_one else 1)
        samples.append(builder.sample(0))
    twice = {picture: given for picture, given in annotated.items() if len(given) > 1}
    for picture, given in twice.items():
        reason = f"is annotated in {' and in '.join(given)}; left out"
        found.leave_out(picture, Kind.PICTURE_TWICE, reason)
    samples = [sample for sample in samples if sample.file_name not in twice]
    if not split.listed:
        others = {picture for file, picture in place.pictures.items() if not split.holds(file)}
        known = others | broken | {posixpath.join(place.folder, picture) for picture in annotated}
        new = [name for name in _beside(place) if name not in known]
        if split.folder:
            new = _choose_beside(split, new, title, found)
        bare = [name_below(name, place.folder) for name in new]
    of = len(entries) + len(bare)
    empty = _without_objects(bare, pictures, found)
    samples += empty
    if empty:
        few = ", ".join(sample.file_name for sample in empty[:3])
        what = f"{len(empty)} of {counted(of, 'picture')} without an XML file"
        found.assume(title, f"{what}, taken as without objects: {few}")
    if survey.below_one:
        found.assume(
            title,
            f"corners count from 0: {survey.below_one} of {counted(survey.objects, 'object')} in "
            "all splits have one below 1, so all are taken as they are",
        )
    remedy = f"export the pictures, too, or put them into {PICTURES} beside {ANNOTATIONS}"
    remedy = remedy if found.lacks_pictures else ""
    return found.dataset(title, labels, number_samples(samples), pictures, of=of, remedy=remedy)


def _beside(place: VocPlace) -> list[str]:
    """The pictures in the folder of pictures, or in those where some with XML files are."""
    if place.folder:
        return [n for n in place.contents.pictures if is_below(n, place.folder)]
    folders = {posixpath.dirname(name) for name in place.pictures.values()}
    return [n for n in place.contents.pictures if posixpath.dirname(n) in folders]


def _choose_beside(
    split: VocSplit, pictures: Sequence[str], title: str, found: Findings
) -> list[str]:
    """Of pictures without an XML file those of a split by folder; what is of none is told of."""
    folders = {picture: split.place.folder_beside(picture) for picture in pictures}
    lost = [picture for picture, folder in folders.items() if not folder]
    if lost:
        what = (
            f"{counted(len(lost), 'picture')} without an XML file that no folder tells a split of"
        )
        few = ", ".join(lost[:3])
        remedy = "put them into the folders of splits"
        found.assume(title, f"{what}, left out; {remedy}, or take the set whole: {few}")
    return [picture for picture, folder in folders.items() if folder == split.folder]


def _without_objects(names: Sequence[str], pictures: Files, found: Findings) -> list[Sample]:
    """Pictures that no XML file is about."""
    samples = []
    for name in names:
        try:
            width, height = read_size(pictures, name)
        except ImageError as error:
            found.leave_out(name, Kind.UNREADABLE, error)
            continue
        builder = SampleBuilder(name, width=width, height=height, findings=found)
        samples.append(builder.sample(0))
    return samples


def _add_objects(
    builder: SampleBuilder, root: Element, file: str, labels: LabelSet, *, first: int
) -> None:
    """`first`: the number of the first pixel."""
    for number, element in enumerate(root.iterfind("object"), start=1):
        place = f"{file} object {number}"
        name = text_in(element, "name")
        corners = [text_in(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        shown = f"{', '.join(corners):.80}"
        try:
            left, top, right, bottom = map(float, corners)
        except ValueError:
            builder.wrong(Kind.BROKEN_ENTRY, f"box of no valid form: {shown}", place=place)
            continue
        box = (left - first, top - first, right, bottom)
        if name not in labels.names:
            reason = f"box of unknown class {name!r:.80}"
            builder.wrong(Kind.UNKNOWN_CLASS, reason, place=place, box=box)
            continue
        difficult = text_in(element, "difficult")
        builder.add(box, labels.label(name), shown=shown, place=place, difficult=difficult)


def _size(root: Element, pictures: Files, picture: str) -> tuple[int, int]:
    """Width and height as the annotation says, else, as some tools write 0, as the picture has;
    ImageError where that is missing or broken."""
    try:
        width, height = (int(float(text_in(root, f"size/{side}"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        width = height = 0
    sides = (width, height)
    if all(0 < side <= LARGEST_SIDE for side in sides) and pictures.exists(picture):
        return sides
    return read_size(pictures, picture)
