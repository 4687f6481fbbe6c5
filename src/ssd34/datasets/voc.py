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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ssd34.core.labels import LabelSet, number_classes
from ssd34.datasets.builder import (
    LARGEST_SIDE,
    Findings,
    SampleBuilder,
    number_of,
    number_samples,
    size_of,
)
from ssd34.datasets.contents import Contents, best_fitting, group_by, is_picture, parts_of, split_of
from ssd34.datasets.dataset import WHOLE, Dataset, Kind, Layout, Problem, Sample
from ssd34.errors import DatasetError, ImageError, OptionError
from ssd34.files.tree import Files, read_annotations, read_lines
from ssd34.text import counted

ANNOTATIONS, PICTURES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"
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

MAX_XML_BYTES = 8 << 20
MAX_LIST_BYTES = 64 << 20


_PICTURES = (PICTURES, "images", "image", "imgs", "img", "pictures", "data")
_LABEL_ME = ("object/polygon/pt", "source/sourceImage", "imagesize")
_FEW = 5


def find_voc(contents: Contents, name: str) -> Layout | None:
    """A VOC data set in a folder or zip, if that is what it is.

    Raises:
        DatasetError: several are there.
    """
    files = contents.files
    if (folder := _annotations_in(contents)) is not None:
        return _devkit(contents, name, folder)
    for around in ("", "VOCdevkit"):
        below = [(f, Contents(files.below(f))) for f in files.folders(around)]
        sets = [(f, one, a) for f, one in below if (a := _annotations_in(one)) is not None]
        if len(sets) > 1 and all(split_of(folder) for folder, _, _ in sets):
            return _layout(contents, name, {f: _Split(_Place(one, a)) for f, one, a in sets})
        if len(sets) > 1:
            known = [folder for folder, _, _ in sets]
            raise DatasetError(
                f"{name}: holds several VOC sets ({', '.join(known)}); name one: {name}/{known[0]}"
            )
        if sets:
            return _devkit(sets[0][1], name, sets[0][2])
    if _holds_voc(files, ""):
        return _layout(contents, name, {WHOLE: _Split(_Place(contents, ""))})
    flat = [folder for folder in files.folders() if _holds_voc(files, folder)]
    if len(flat) == 1 and not any(_is_below(name, flat[0]) for name in contents.pictures):
        return _layout(contents, name, {WHOLE: _Split(_Place(contents, flat[0]))})
    splits = {folder: _Split(_Place(Contents(files.below(folder)), "")) for folder in flat}
    return _layout(contents, name, splits) if splits else None


def find_any_voc(contents: Contents, name: str) -> Layout | None:
    """A VOC data set by XML files anywhere below."""
    if not _holds_voc(contents.files, "", deep=True):
        return None
    return _layout(contents, name, {WHOLE: _Split(_Place(contents, ""))})


def _annotations_in(contents: Contents) -> str | None:
    """The folder of the XML files as a devkit has it; of that very name it may hold none."""
    folder = contents.folder(ANNOTATIONS)
    if folder is None:
        return None
    some = _xml_files(contents.files, folder, deep=True)[:_FEW]
    voc = any(_is_voc(contents.files, file) for file in some)
    other = any(_is_xml(contents.files, file) for file in some)
    return folder if voc or (folder == ANNOTATIONS and not other) else None


def _devkit(contents: Contents, name: str, annotations: str) -> Layout:
    files = contents.files
    lists: dict[str, str] = {}
    if sets := contents.folder("ImageSets"):
        main = Contents(files.below(sets)).folder("Main")
        folder = posixpath.join(sets, main) if main else sets
        listing = [file for file in files.names(folder) if file.lower().endswith(".txt")]
        lists = {posixpath.basename(_stem(file)): file for file in listing}
    # Beside train.txt the devkit has cat_train.txt, which says what pictures show a cat.
    of_class = {
        stem: split
        for stem in lists
        for split in lists
        if stem.endswith(f"_{split}") and _says_whether(files, lists[stem], lists[split])
    }
    named = sorted({stem.removesuffix(f"_{split}") for stem, split in of_class.items()})
    place = _Place(contents, annotations)
    splits = {s: _Split(place, file) for s, file in lists.items() if s not in of_class}
    return _layout(contents, name, splits or {WHOLE: _Split(place)}, named)


def _says_whether(files: Files, file: str, of: str) -> bool:
    """Whether a list has, of pictures of another, a second column: 1, -1, or 0 for difficult."""
    lines, known = _lines(files, file), set(_lines(files, of))
    pictures = [_without_flag(line) for line in lines]
    return all(pictures) and not known.isdisjoint(pictures) and known.isdisjoint(lines)


def _lines(files: Files, file: str) -> list[str]:
    lines = read_lines(files, file, limit=MAX_LIST_BYTES)
    return [line.strip() for line in lines if line.strip()]


def _without_flag(line: str) -> str:
    """A line without its second column; "" if it has none."""
    name, _, flag = line.replace("\t", " ").rpartition(" ")
    return name.strip() if flag in ("-1", "0", "1") else ""


def _xml_files(files: Files, folder: str, *, deep: bool) -> list[str]:
    return [n for n in files.names(folder, deep=deep) if n.lower().endswith(".xml")]


def _holds_voc(files: Files, folder: str, *, deep: bool = False) -> bool:
    some = _xml_files(files, folder, deep=deep)[:_FEW]
    return any(_is_voc(files, file) for file in some)


def _is_voc(files: Files, file: str) -> bool:
    """Whether a file has VOC's form; LabelMe's XML has the same root."""
    try:
        root = _parse(files, file)
    except DatasetError:
        return False
    return root.tag == "annotation" and not any(map(root.findall, _LABEL_ME))


def _is_xml(files: Files, file: str) -> bool:
    try:
        return bool(_parse(files, file).tag)
    except DatasetError:
        return False


def _parse(files: Files, name: str) -> Element:
    return parse_xml(read_annotations(files, name, limit=MAX_XML_BYTES), name)


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


@dataclass(frozen=True)
class _Split:
    """Where the pictures of a split are, and the file that lists them; "": all that are there."""

    place: _Place
    listed: str = ""


def _layout(
    contents: Contents, name: str, splits: Mapping[str, _Split], named: Sequence[str] = ()
) -> Layout:
    places = list(dict.fromkeys(split.place for split in splits.values()))

    @functools.cache
    def survey() -> _Survey:
        return _look_through(places)

    def read(split: str) -> Dataset:
        found = Findings()
        title = f"{name}@{split}" if split else name
        labels = _classes(contents, name, named, survey(), found)
        return _read(splits[split], title, labels, survey(), found)

    return Layout("voc", name, tuple(splits), read)


@dataclass(frozen=True)
class _Survey:
    """What all splits together tell: the names of objects, how many objects have a corner below 1,
    of how many, XML files, and what is wrong with the first of these that is broken."""

    names: frozenset[str]
    below_one: int
    objects: int
    files: int
    broken: str


def _look_through(places: Sequence[_Place]) -> _Survey:
    names: set[str] = set()
    below_one = objects = files = 0
    broken = ""
    for place in places:
        for file in place.xml:
            files += 1
            try:
                root = _parse(place.files, file)
            except DatasetError as error:
                broken = broken or str(error)
                continue  # reported when its picture is read
            for thing in root.iterfind("object"):
                objects += 1
                names.add(_text(thing, "name"))
                sides = (number_of(_text(thing, f"bndbox/{side}")) for side in ("xmin", "ymin"))
                below_one += any(math.isfinite(side) and side < 1 for side in sides)
    return _Survey(frozenset(names - {""}), below_one, objects, files, broken)


def _classes(
    contents: Contents, name: str, named: Sequence[str], survey: _Survey, found: Findings
) -> LabelSet:
    """The classes: as `CLASSES` or `LABEL_MAP` list them, else by the devkit's lists of pictures a
    class, else those that occur in any split, so that all splits have the same."""
    files = contents.files
    try:
        if files.exists(CLASSES):
            return number_classes(_lines(files, CLASSES))
        if files.exists(LABEL_MAP):
            lines = [line for line in _lines(files, LABEL_MAP) if not line.startswith("#")]
            # A name may hold a colon itself.
            listed = [line.rsplit(":", 3)[0] if line.count(":") > 2 else line for line in lines]
            if BACKGROUND in listed and BACKGROUND not in survey.names:
                listed.remove(BACKGROUND)
                found.assume(name, f"no class: {BACKGROUND} of {LABEL_MAP}, which no object is")
            return number_classes(listed)
        occurring = frozenset(named) or survey.names
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


class _Place:
    """XML files below a folder, and the pictures that they are about.

    Attributes:
        files: the whole data set, or a split that has a folder of its own.
        annotations: the folder of the XML files.
    """

    def __init__(self, contents: Contents, annotations: str) -> None:
        self.contents = contents
        self.files = contents.files
        self.annotations = annotations

    @cached_property
    def xml(self) -> list[str]:
        """The XML files."""
        return _xml_files(self.files, self.annotations, deep=True)

    @cached_property
    def xml_of(self) -> Mapping[str, list[str]]:
        """By stem, which is the path below `annotations` without ending."""
        return group_by(self.xml, lambda file: _stem(_below(file, self.annotations)))

    @cached_property
    def _by_base(self) -> Mapping[str, list[str]]:
        return group_by(self.xml_of, posixpath.basename)

    @cached_property
    def _stems(self) -> Mapping[str, list[str]]:
        return group_by(self.contents.pictures, _stem)

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        return group_by(self.contents.pictures, lambda name: _stem(posixpath.basename(name)))

    @cached_property
    def _folders(self) -> list[str]:
        """Where pictures may be that have the same path as their XML."""
        there = [self.contents.folder(name) for name in _PICTURES]
        folders = [folder for folder in there if folder is not None]
        return list(dict.fromkeys([*folders, self.annotations, ""]))

    @cached_property
    def pictures(self) -> dict[str, str]:
        """The picture of each XML file, where there is one."""
        found = {}
        for stem, files in self.xml_of.items():
            for file in files:
                picture = self.picture_of(stem) or self._named_in(stem, file)
                if picture:
                    found[file] = picture
        return found

    @cached_property
    def folder(self) -> str:
        """The folder to which the names of pictures are relative."""
        names = list(self.pictures.values()) or self.contents.pictures
        if not names:
            return self._folders[0]
        return next(f for f in self._folders if all(_is_below(name, f) for name in names))

    def picture_of(self, stem: str, *, suffix: str = ".jpg") -> str:
        """The picture that has the same path as an XML file, but for the ending; or ""."""
        for folder in self._folders:
            path = posixpath.join(folder, stem)
            if found := self._stems.get(path):
                return min(found, key=lambda name: (not name.endswith(suffix), name))
            if is_picture(stem) and self.files.exists(path):  # 1.jpg.xml
                return path
        return ""

    def _named_in(self, stem: str, file: str) -> str:
        """The picture that an XML file names, else the only one called as itself; or ""."""
        try:
            named = _text(_parse(self.files, file), "filename")
        except DatasetError:
            return ""
        same = self.contents.find(named) or self._by_name.get(posixpath.basename(stem), [])
        found = best_fitting(parts_of(stem), same, _stem)
        return found[0] if len(found) == 1 else ""

    def stem_of(self, line: str) -> str:
        """A line of a list as a stem: a name, which may hold blanks and an ending, or one with a
        second column; of a picture in a folder below, the name alone is enough."""
        texts = [text for text in (line, line.strip('"'), _without_flag(line)) if text]
        for text in texts:
            stem = _stem(text) if is_picture(text) else text
            known = [one for one in (stem, text) if one in self.xml_of]
            if known or self.picture_of(stem):
                return known[0] if known else stem
        for text in texts:
            found = self._by_base.get(text, [])
            if len(found) == 1:
                return found[0]
        return _without_flag(line) or line


def _below(name: str, folder: str) -> str:
    return name[len(folder) :].lstrip("/") if folder else name


def _is_below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _read(split: _Split, title: str, labels: LabelSet, survey: _Survey, found: Findings) -> Dataset:
    place = split.place
    pictures = place.files.below(place.folder)
    bare: list[str] = []
    if split.listed:
        counts = Counter(place.stem_of(line) for line in _lines(place.files, split.listed))
        found.problems += [
            Problem(split.listed, f"{stem} is listed {count} times", Kind.PICTURE_TWICE)
            for stem, count in counts.items()
            if count > 1
        ]
        entries = []
        for stem in counts:
            picture = place.picture_of(stem)
            if stem not in place.xml_of and picture:
                bare.append(_below(picture, place.folder))
                continue
            usual = posixpath.join(place.annotations, f"{stem}.xml")
            entries += [(stem, file) for file in place.xml_of.get(stem, [usual])]
    else:
        entries = [(_stem(_below(file, place.annotations)), file) for file in place.xml]
    samples: list[Sample] = []
    annotated: dict[str, list[str]] = {}
    broken: set[str] = set()
    for stem, file in entries:
        there = place.pictures.get(file, "")
        try:
            root = _annotation(place.files, file)
        except DatasetError as error:
            reason = str(error).removeprefix(f"{file}: ")
            found.problems.append(Problem(file, reason, Kind.BROKEN_ENTRY))
            broken.add(there)
            continue
        suffix = PurePosixPath(_text(root, "filename")).suffix or ".jpg"
        there = place.picture_of(stem, suffix=suffix) or there
        picture = _below(there, place.folder) if there else f"{stem}{suffix}"
        try:
            width, height = _size(root, pictures, picture)
        except ImageError as error:
            reason = str(error).removeprefix(f"{picture}: ")
            kind = Kind.UNREADABLE if pictures.exists(picture) else Kind.MISSING
            found.problems.append(Problem(picture, reason, kind))
            broken.add(there)
            continue
        annotated.setdefault(picture, []).append(file)
        builder = SampleBuilder(picture, width=width, height=height, findings=found)
        _add_objects(builder, root, file, labels, first=0 if survey.below_one else 1)
        samples.append(builder.sample(0))
    twice = {picture: given for picture, given in annotated.items() if len(given) > 1}
    found.problems += [
        Problem(picture, f"is annotated in {' and in '.join(given)}; left out", Kind.PICTURE_TWICE)
        for picture, given in twice.items()
    ]
    samples = [sample for sample in samples if sample.file_name not in twice]
    if not split.listed:
        known = broken | {posixpath.join(place.folder, picture) for picture in annotated}
        bare = [_below(name, place.folder) for name in _beside(place) if name not in known]
    samples += _without_objects(bare, pictures, title, found)
    if survey.below_one:
        found.assume(
            title,
            f"corners count from 0: {survey.below_one} of {counted(survey.objects, 'object')} in "
            "all splits have one below 1, so all are taken as they are",
        )
    remedy = f"export the pictures, too, or put them into {PICTURES} beside {ANNOTATIONS}"
    remedy = remedy if found.lacks_pictures else ""
    numbered = number_samples(samples)
    of = len(entries) + len(bare)
    return found.dataset(title, labels, numbered, pictures, of=of, remedy=remedy)


def _beside(place: _Place) -> list[str]:
    """The pictures in the folder of pictures, or in those where some with XML files are."""
    if place.folder:
        return [n for n in place.contents.pictures if _is_below(n, place.folder)]
    folders = {posixpath.dirname(name) for name in place.pictures.values()}
    return [n for n in place.contents.pictures if posixpath.dirname(n) in folders]


def _without_objects(
    names: Sequence[str], pictures: Files, title: str, found: Findings
) -> list[Sample]:
    """Pictures that no XML file is about."""
    samples = []
    for name in names:
        try:
            width, height = size_of(pictures, name)
        except ImageError as error:
            reason = str(error).removeprefix(f"{name}: ")
            found.problems.append(Problem(name, reason, Kind.UNREADABLE))
            continue
        builder = SampleBuilder(name, width=width, height=height, findings=found)
        samples.append(builder.sample(0))
    if samples:
        few = ", ".join(sample.file_name for sample in samples[:3])
        what = counted(len(samples), "picture")
        found.assume(title, f"{what} without an XML file taken as without objects: {few}")
    return samples


def _annotation(files: Files, file: str) -> Element:
    root = _parse(files, file)
    if root.tag != "annotation":
        raise DatasetError(f"{file}: expected an <annotation>, got <{root.tag:.40}>")
    return root


def _add_objects(
    builder: SampleBuilder, root: Element, file: str, labels: LabelSet, *, first: int
) -> None:
    """`first`: the number of the first pixel."""
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
        box = (left - first, top - first, right, bottom)
        if name not in labels.names:
            builder.wrong(
                Kind.UNKNOWN_CLASS, f"box of unknown class {name!r:.80}", place=place, box=box
            )
            continue
        builder.add(
            box, labels.label(name), shown=shown, place=place, difficult=_text(element, "difficult")
        )


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
