"""Where the files of a Pascal VOC data set are: its XML files, their pictures, and its lists.

Tools lay them out in many ways. XML and picture belong together that have the same path below their
folders; else the picture counts that the XML names, else the only one called as the XML is.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from xml.etree.ElementTree import XML, Element, ParseError, TreeBuilder, XMLParser

from ssd34.datasets.contents import (
    Contents,
    best_fitting,
    group_by,
    is_below,
    is_picture,
    name_below,
    parts_of,
    split_of,
    without_ending,
)
from ssd34.datasets.dataset import UNDIVIDED, WHOLE
from ssd34.errors import DatasetError
from ssd34.files.tree import Files, read_annotations, read_lines

ANNOTATIONS, PICTURES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"

MAX_XML_BYTES = 8 << 20
MAX_LIST_BYTES = 64 << 20

_PICTURES = (PICTURES, "images", "image", "imgs", "img", "pictures", "data")
_LABEL_ME = ("object/polygon/pt", "source/sourceImage", "imagesize")
_FEW = 5


def find_usual_voc(contents: Contents, name: str) -> VocFound | None:
    """A VOC data set laid out as usual, if it is one; DatasetError where several are."""
    files = contents.files
    if (folder := _annotations_in(contents)) is not None:
        return _devkit(contents, folder)
    for around in ("", "VOCdevkit"):
        below = [(f, Contents(files.below(f))) for f in files.folders(around)]
        sets = [(f, one, a) for f, one in below if (a := _annotations_in(one)) is not None]
        if len(sets) > 1 and all(split_of(folder) for folder, _, _ in sets):
            return VocFound(contents, {f: VocSplit(VocPlace(one, a)) for f, one, a in sets})
        if len(sets) > 1:
            known = [folder for folder, _, _ in sets]
            raise DatasetError(
                f"{name}: holds several VOC sets ({', '.join(known)}); name one: {name}/{known[0]}"
            )
        if sets:
            return _devkit(sets[0][1], sets[0][2])
    if _holds_voc(files, ""):
        return VocFound(contents, {WHOLE: VocSplit(VocPlace(contents, ""))})
    flat = [folder for folder in files.folders() if _holds_voc(files, folder)]
    if len(flat) == 1 and not any(is_below(name, flat[0]) for name in contents.pictures):
        return VocFound(contents, {WHOLE: VocSplit(VocPlace(contents, flat[0]))})
    splits = {folder: VocSplit(VocPlace(Contents(files.below(folder)), "")) for folder in flat}
    if len(flat) == 1 and not split_of(flat[0]):
        return VocFound(contents, {WHOLE: splits[flat[0]]}, others=splits)
    return VocFound(contents, splits) if splits else None


def find_xml_below(contents: Contents) -> VocFound | None:
    """A VOC data set by XML files anywhere below."""
    if not _holds_voc(contents.files, "", deep=True):
        return None
    place = VocPlace(contents, "")
    around = posixpath.commonpath(map(posixpath.dirname, place.xml))
    return _found_by_folder(contents, VocPlace(contents, around), VocSplit(place))


def _found_by_folder(
    contents: Contents, place: VocPlace, whole: VocSplit, named: Sequence[str] = ()
) -> VocFound:
    """What no list divides, but folders of XML may: then without a split it is all."""
    splits = _splits_by_folder(place)
    found, others = (splits, {WHOLE: whole}) if splits else ({WHOLE: whole}, {})
    return VocFound(contents, found, named, others)


def _splits_by_folder(place: VocPlace) -> dict[str, VocSplit]:
    """The splits of XML files that all lie in folders called so; else none."""
    folders = {place.folder_of(file) for file in place.xml}
    if not all(map(split_of, folders)):
        return {}
    return {folder: VocSplit(place, folder=folder) for folder in sorted(folders)}


def _annotations_in(contents: Contents) -> str | None:
    """The folder of the XML files as a devkit has it; of that very name it may hold none."""
    folder = contents.folder(ANNOTATIONS)
    if folder is None:
        return None
    some = _xml_files(contents.files, folder, deep=True)[:_FEW]
    roots = [root for file in some if (root := _root_of(contents.files, file)) is not None]
    empty = folder == ANNOTATIONS and not roots
    return folder if empty or any(map(_is_voc, roots)) else None


def _devkit(contents: Contents, annotations: str) -> VocFound:
    files = contents.files
    lists: dict[str, str] = {}
    if sets := contents.folder("ImageSets"):
        main = Contents(files.below(sets)).folder("Main")
        folder = posixpath.join(sets, main) if main else sets
        listing = [file for file in files.names(folder) if file.lower().endswith(".txt")]
        lists = {posixpath.basename(without_ending(file)): file for file in listing}
    lines = {stem: read_list(files, file) for stem, file in lists.items()}
    # Beside train.txt the devkit has cat_train.txt, which says what pictures show a cat.
    of_class = {
        stem: split
        for stem in lists
        for split in lists
        if stem.endswith(f"_{split}") and _says_whether(lines[stem], lines[split])
    }
    named = sorted({stem.removesuffix(f"_{split}") for stem, split in of_class.items()})
    place = VocPlace(contents, annotations)
    splits = {s: VocSplit(place, file) for s, file in lists.items() if s not in of_class}
    splits = {s: split for s, split in splits.items() if lines[s]} or splits
    if set(splits) == {UNDIVIDED}:
        return VocFound(contents, {WHOLE: splits[UNDIVIDED]}, named, others=splits)
    if splits:
        return VocFound(contents, splits, named)
    return _found_by_folder(contents, place, VocSplit(place), named)


def _says_whether(lines: Sequence[str], of: Sequence[str]) -> bool:
    """Whether a list has, of pictures of another, a second column: 1, -1, or 0 for difficult."""
    known = set(of)
    pictures = [_without_flag(line) for line in lines]
    return all(pictures) and not known.isdisjoint(pictures) and known.isdisjoint(lines)


def read_list(files: Files, file: str) -> list[str]:
    """The lines of a text file that are not blank, without blanks at the ends; DatasetError where
    it is missing, too large or not UTF-8."""
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
    return any(_is_voc(_root_of(files, file)) for file in some)


def _is_voc(root: Element | None) -> bool:
    """Whether a file has VOC's form; LabelMe's XML has the same root."""
    if root is None:
        return False
    return root.tag == "annotation" and not any(map(root.findall, _LABEL_ME))


def _root_of(files: Files, file: str) -> Element | None:
    with suppress(DatasetError):
        return parse_annotation(files, file)
    return None


def parse_annotation(files: Files, name: str) -> Element:
    """The root element of an XML file; DatasetError where it is missing, too large, not
    well-formed, or with a document type."""
    data = read_annotations(files, name, limit=MAX_XML_BYTES)
    try:
        return XML(data, XMLParser(target=_WithoutDoctype()))  # noqa: S314 - entities need a doctype
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from None
    except (ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{name}: not XML ({error})") from None


class _WithoutDoctype(TreeBuilder):
    def doctype(self, *_: object) -> None:
        """Refuse it before anything that it declares is read."""
        raise DatasetError("declares a document type (DOCTYPE); take that line out")


@dataclass(frozen=True)
class VocSplit:
    """Where the pictures of a split are, and what is of it: what a file lists, or what lies in a
    folder; else all that is there."""

    place: VocPlace
    listed: str = ""
    folder: str = ""

    def holds(self, file: str) -> bool:
        """Whether an XML file is of the split; of one that a file lists it is not told."""
        return not self.folder or self.place.folder_of(file) == self.folder


class VocPlace:
    """XML files below a folder, `annotations`, of a whole data set, or of a split that has a folder
    of its own, and the pictures that they are about."""

    def __init__(self, contents: Contents, annotations: str) -> None:
        self.contents = contents
        self.files = contents.files
        self.annotations = annotations

    @cached_property
    def xml(self) -> list[str]:
        """The XML files."""
        return _xml_files(self.files, self.annotations, deep=True)

    def stem(self, file: str) -> str:
        """Of an XML file the path below `annotations` without ending."""
        return without_ending(name_below(file, self.annotations))

    def folder_of(self, file: str) -> str:
        """Of an XML file the first folder below `annotations`, "" if it lies right there."""
        folder, separator, _ = self.stem(file).partition("/")
        return folder if separator else ""

    @cached_property
    def xml_of(self) -> Mapping[str, list[str]]:
        """By `stem`."""
        return group_by(self.xml, self.stem)

    @cached_property
    def _by_base(self) -> Mapping[str, list[str]]:
        return group_by(self.xml_of, posixpath.basename)

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        return group_by(
            self.contents.pictures, lambda name: without_ending(posixpath.basename(name))
        )

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
    def _stem_about(self) -> dict[str, str]:
        """The stem of the XML file about each picture."""
        return {picture: self.stem(file) for file, picture in self.pictures.items()}

    @cached_property
    def folder(self) -> str:
        """The folder to which the names of pictures are relative."""
        names = list(self.pictures.values()) or self.contents.pictures
        if not names:
            return self._folders[0]
        return next(f for f in self._folders if all(is_below(name, f) for name in names))

    def folder_beside(self, picture: str) -> str:
        """Of a picture without XML the `folder_of` all XML about pictures in its folder, else in
        the next around it; "" where there is none, or not the same."""
        of_near = (self._folders_in.get(folder, set()) for folder in self._around(picture))
        near = next(filter(None, of_near), set())
        return min(near) if len(near) == 1 else ""

    @cached_property
    def _folders_in(self) -> Mapping[str, set[str]]:
        """Of each folder the `folder_of` the XML about the pictures below."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for file, picture in self.pictures.items():
            for folder in self._around(picture):
                found[folder].add(self.folder_of(file))
        return found

    def _around(self, picture: str) -> list[str]:
        """The folder of a picture, and those around it as far as they lie below `folder`."""
        own, *others = map(str, PurePosixPath(picture).parents)
        return [own, *(one for one in others if one.startswith(f"{self.folder}/"))]

    def picture_of(self, stem: str, *, suffix: str = ".jpg") -> str:
        """The picture that has the same path as an XML file, but for the ending; or ""."""
        for folder in self._folders:
            path = posixpath.join(folder, stem)
            if found := self.contents.by_stem.get(path):
                return min(found, key=lambda name: (not name.endswith(suffix), name))
            if is_picture(stem) and self.files.exists(path):  # 1.jpg.xml
                return path
        return ""

    def _named_in(self, stem: str, file: str) -> str:
        """The picture that an XML file names, else the only one called as itself; or ""."""
        root = _root_of(self.files, file)
        named = [] if root is None else self.contents.find(text_in(root, "filename"))
        same = named or self._by_name.get(posixpath.basename(stem), [])
        found = best_fitting(parts_of(stem), same, without_ending)
        if root is None:  # what a folder gives to another split is not guessed at
            own = split_of(self.folder_of(file))
            found = [one for one in found if _splits_in(one) <= {own}]
        return found[0] if len(found) == 1 else ""

    def stem_of(self, line: str) -> str:
        """A line of a list as a stem: a name, which may hold blanks and an ending, or one with a
        second column; of a picture in a folder below, the name alone is enough."""
        texts = [text for text in (line, line.strip('"'), _without_flag(line)) if text]
        for text in texts:
            stem = without_ending(text) if is_picture(text) else text
            for known in (stem, text):
                if known in self.xml_of:
                    return known
            if picture := self.picture_of(stem):
                own = name_below(without_ending(picture), self.folder)
                return self._stem_about.get(picture) or own
        for text in texts:
            found = self._by_base.get(posixpath.basename(text), [])
            if len(found) == 1:
                return found[0]
        return _without_flag(line) or line


def _splits_in(picture: str) -> set[str]:
    """The splits that folders around a picture are called as."""
    return {split_of(folder) for folder in picture.split("/")[:-1]} - {""}


@dataclass(frozen=True)
class VocFound:
    """Where lists of classes lie, splits by name, classes that have lists of pictures, and what
    else may be asked for by a name that version 1.0 had."""

    contents: Contents
    splits: Mapping[str, VocSplit]
    named: Sequence[str] = ()
    others: Mapping[str, VocSplit] = field(default_factory=dict)


def text_in(element: Element, path: str) -> str:
    """The text of an element below another, "" where there is none."""
    return (element.findtext(path) or "").strip()
