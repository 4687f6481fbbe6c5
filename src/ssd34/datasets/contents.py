"""What lies in the folder or zip of a data set, listed once, and what a foreign path means there.

Tools write paths of their own machine or server into annotations. Only their last parts count: a
file below the data set's folder that ends in the same way is meant, if there is just one.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from operator import eq
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from ssd34.files.tree import Files
from ssd34.images.read import SUFFIXES

T = TypeVar("T")

_SPLIT = re.compile(r"(trainval|train|val|test|dev)(ing|id|idation)?(?![a-z])", re.IGNORECASE)


def split_of(name: str) -> str:
    """The split that a folder or file name stands for, as ``val`` of valid and val2017; or ""."""
    found = _SPLIT.match(name)
    return found[1].lower() if found else ""


def is_picture(name: str) -> bool:
    """Whether a file has an ending of pictures."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_below(name: str, folder: str) -> bool:
    """Whether a name lies in a folder; "" is the whole."""
    return not folder or name.startswith(f"{folder}/")


def name_below(name: str, folder: str) -> str:
    """A name that lies in a folder, relative to it."""
    return name[len(folder) :].lstrip("/") if folder else name


def without_ending(name: str) -> str:
    """A path without the ending of its file."""
    return posixpath.splitext(name)[0]


def parts_of(path: str) -> tuple[str, ...]:
    """Folders and name; at least one."""
    return PurePosixPath(path.replace("\\", "/")).parts or ("",)


def best_fitting(path: tuple[str, ...], among: Sequence[T], name: Callable[[T], str]) -> list[T]:
    """Those among some whose `name` is a path, given in parts, else those whose parts agree most
    with it, from the end on."""
    paths = [parts_of(name(one)) for one in among]
    if path in paths:
        return [one for one, parts in zip(among, paths, strict=True) if parts == path]
    agreeing = [sum(takewhile(bool, map(eq, reversed(parts), reversed(path)))) for parts in paths]
    most = max(agreeing, default=0)
    return [one for one, count in zip(among, agreeing, strict=True) if count == most]


def _foreign_parts(path: str) -> tuple[str, ...]:
    """The parts of a path or address of another machine that may mean something here."""
    text = path.replace("\\", "/")
    text, _, query = text.partition("?")
    if query and not is_picture(text):
        text = query.rpartition("=")[2]  # /data/local-files/?d=pictures/a.jpg
    text = re.sub(r"^\w+://[^/]*|^\w:", "", text)
    parts = tuple(part for part in text.split("/") if part not in ("", ".", ".."))
    return parts or ("",)


class Contents:
    """The names below one place, in the ways in which the readers look for them; `outer`: what the
    place is in, and the folder of it; None: it was given."""

    def __init__(self, files: Files, *, outer: tuple[Contents, str] | None = None) -> None:
        self.files = files
        self.outer = outer

    @cached_property
    def names(self) -> list[str]:
        """Every file, also in folders below, sorted; none that is hidden."""
        return self.files.names(deep=True)

    @cached_property
    def pictures(self) -> list[str]:
        """Those of them that are called as pictures are."""
        return [name for name in self.names if is_picture(name)]

    def ending(self, *suffixes: str) -> list[str]:
        """Files of some endings in lower case, those with the fewest folders first."""
        found = [name for name in self.names if name.lower().endswith(suffixes)]
        return sorted(found, key=lambda name: (name.count("/"), name))

    def folder(self, name: str) -> str | None:
        """The folder in this place that has a name, in any case of letters."""
        found = [folder for folder in self.files.folders() if folder.lower() == name.lower()]
        return name if name in found else next(iter(found), None)

    def is_twin(self, picture: str) -> bool:
        """Whether another picture differs from one in its ending only."""
        return len(self.by_stem.get(without_ending(picture), ())) > 1

    @cached_property
    def by_stem(self) -> Mapping[str, list[str]]:
        """The pictures of each path without ending."""
        return group_by(self.pictures, without_ending)

    @cached_property
    def _by_base(self) -> Mapping[str, list[str]]:
        return group_by(self.names, lambda name: _fold(posixpath.basename(name)))

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        return group_by(self.pictures, lambda n: _fold(without_ending(posixpath.basename(n))))

    @cached_property
    def _any_case(self) -> Mapping[str, list[str]]:
        return group_by(self.names, _fold)

    def in_any_case(self, name: str) -> str | None:
        """The file of a name, its letters in any case."""
        found = self._any_case.get(_fold(name), [])
        same = [one for one in found if without_ending(one) == without_ending(name)]
        return next(iter(same or found), None)

    def find(self, path: str, *, wanted: Callable[[str], bool] = is_picture) -> list[str]:
        """The pictures, or what else is `wanted`, that a foreign path may mean: of those called as
        its end is, which may lack the ending, the ones that agree with its folders farthest. None
        in the folder of another split, and no link that leads out."""
        for text in dict.fromkeys((path, unquote(path))):
            parts = _foreign_parts(text)
            last = _fold(parts[-1])
            same = self._by_base.get(last) or self._by_name.get(last, [])
            exact = [name for name in same if posixpath.basename(name) == parts[-1]]
            fitting = [
                name for name in exact or same
                if wanted(name) and not _other_split(parts[:-1], name.split("/")[:-1])
                and self.files.exists(name)
            ]  # fmt: skip
            if fitting:
                return best_fitting(parts, fitting, str)
        return []

    def find_folder(self, path: str) -> str | None:
        """The folder that a foreign path may mean: its longest end there is, with its split."""
        parts = _foreign_parts(path)
        for k in range(len(parts)):
            if k and split_of(parts[k - 1]):
                return None
            folder = posixpath.join(*parts[k:])
            if folder and self.files.is_folder(folder):
                return folder
        return None


def _fold(name: str) -> str:
    """A name without the case of its letters; macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", name).lower()


def group_by(names: Iterable[str], key: Callable[[str], str]) -> Mapping[str, list[str]]:
    """The names of each key."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return groups


def _other_split(one: Sequence[str], other: Sequence[str]) -> bool:
    first, second = ({s for part in parts if (s := split_of(part))} for parts in (one, other))
    return bool(first and second and not first & second)


def locate(names: Iterable[str], contents: Contents, place: str) -> Iterator[tuple[str, str, bool]]:
    """Where the pictures are that a file of annotations names, relative to a folder; "" the whole.
    Each name with where the picture is, and whether it is there as written; of a picture that is
    missing or could be one of several, ""."""
    files = contents.files
    taken: set[str] = set()
    others: dict[str, str] = {}
    for name in dict.fromkeys(names):
        there = posixpath.join(place, name) if place else name
        if files.exists(there):
            taken.add(there)
            yield name, there, True
        else:
            others[name] = there
    lost = {name for name, there in others.items() if files.is_lost_link(there)}
    meant = {name: contents.find(name) for name in others if name and name not in lost}
    of_one = Counter(found[0] for found in meant.values() if len(found) == 1)
    for name in others:
        found = meant.get(name, [])
        alone = len(found) == 1 and of_one[found[0]] == 1 and found[0] not in taken
        yield name, found[0] if alone else "", False
