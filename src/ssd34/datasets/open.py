"""Any data set by its path; the format is recognised by what is there.

See `FORMS`. Where a data set is divided, ``PATH@SPLIT`` names a part: ``VOC2007@trainval``,
``data.yaml@val``.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssd34.core.labels import COCO_LABELS, LabelSet, number_classes
from ssd34.datasets import coco, voc, yolo
from ssd34.datasets.coco import read_coco_file
from ssd34.datasets.contents import Contents
from ssd34.datasets.dataset import WHOLE, Dataset, Layout
from ssd34.datasets.foreign import form_of_file, name_foreign
from ssd34.datasets.voc import COCO_NAMES
from ssd34.errors import DatasetError
from ssd34.files.tree import BROKEN_ZIP, Files, FolderFiles, ZipFiles
from ssd34.images.read import SUFFIXES

FORMS = (
    "a folder or zip with a COCO .json, with VOC's Annotations/ and JPEGImages/, or with YOLO's "
    "data.yaml, obj.data or classes.txt; or a COCO .json, FILE.json@FOLDER, or a YOLO .yaml"
)

_Finder = Callable[[Contents, str], Layout | None]

_FINDERS: tuple[tuple[_Finder, ...], ...] = (
    (coco.find_coco, voc.find_voc, yolo.find_yolo),
    (coco.find_any_coco, voc.find_any_voc, yolo.find_any_yolo),
)
"""How a data set is known: by its form's usual names, then by what is in files of any name."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")

_DEPTH = 3
"""How many folders around everything are looked through."""


def open_dataset(path: str | Path) -> Dataset:
    """Read a data set in any of `FORMS`, with ``@SPLIT`` where it is divided; DatasetError: nothing
    usable is there. MissingExtraError: it is YOLO's, and PyYAML is not installed."""
    source, split = split_path(path)
    return find_dataset(source).open(split)


def split_path(path: str | Path) -> tuple[str, str | None]:
    """``PATH@SPLIT`` as both; ``FILE.json@FOLDER`` and names that hold an @ stay whole."""
    text = str(path)
    before, separator, split = text.rpartition("@")
    if not separator or os.path.exists(text) or not before:
        return text, None
    if "/" in split or os.sep in split or before.endswith(".json"):
        return text, None
    return before, split


def find_place(path: str | Path) -> Path:
    """The file or folder in a path of one of `FORMS`; of ``FILE.json@FOLDER`` the file."""
    text, _ = split_path(path)
    if (inside := _inside_zip(text)) is not None:
        return inside[0]
    before, separator, _ = text.partition(".json@")
    return Path(f"{before}.json" if separator and not os.path.exists(text) else text)


def is_annotation(path: Path) -> bool:
    """Whether a file in a data set's folder may be read for its annotations."""
    if path.suffix.lower() == ".json":
        known = path.name in (coco.ANNOTATIONS, coco.ROBOFLOW)
        files = FolderFiles(path.parent)
        return known or path.name.startswith(coco.SPLIT_PREFIX) or coco.is_coco(files, path.name)
    return path.suffix.lower() in (*yolo.SUFFIXES, yolo.DARKNET, ".names", ".xml", ".txt")


def _inside_zip(path: str) -> tuple[Path, str] | None:
    """Of ``ARCHIVE/NAME`` the archive and the name in it."""
    if os.path.exists(path):
        return None
    for archive in Path(path).parents:
        if archive.is_file() and zipfile.is_zipfile(archive):
            return archive, Path(path).relative_to(archive).as_posix()
    return None


def find_dataset(path: str | Path) -> Layout:
    """Recognise a data set, one of `FORMS` without ``@SPLIT``, without reading its boxes;
    DatasetError where nothing known is there."""
    text = str(path)
    if not text:  # as a path it would be the current folder
        raise DatasetError("expected the path of a data set, got an empty text")
    before, separator, after = text.partition(".json@")
    if separator and not os.path.exists(text):
        file = Path(f"{before}.json")
        if not os.path.exists(file):
            raise DatasetError(f"{file}: no such file; check the path")
        if not Path(after).is_dir():
            raise DatasetError(
                f"{after}: no such folder; behind .json@ expected that of the pictures of {file}"
            )
        return coco.open_coco_file(file, text, pictures=Path(after))
    archive, inside = _inside_zip(text) or (Path(text), "")
    if not os.path.exists(archive):
        raise DatasetError(f"{archive}: no such file or folder; check the path")
    if not os.access(archive, os.R_OK):
        raise DatasetError(f"{archive}: cannot be read; check its rights")
    if archive.is_dir():
        return _search(FolderFiles(archive), text)
    if zipfile.is_zipfile(archive):
        try:
            return _open_named(Contents(ZipFiles(archive)), inside, text)
        except BROKEN_ZIP as error:
            raise DatasetError(f"{archive}: broken archive ({error}); fetch it again") from None
    if archive.suffix.lower() == ".zip":
        raise DatasetError(f"{archive}: not a zip; if it was cut off, fetch it again")
    files = FolderFiles(archive.parent)
    if archive.suffix.lower() == ".json" and not form_of_file(files, archive.name):
        return coco.open_coco_file(archive, text)
    return _open_named(Contents(files), archive.name, text)


def _open_named(contents: Contents, inside: str, name: str) -> Layout:
    """A file or folder in a place by its name, "" the whole; DatasetError for no data set."""
    files = contents.files
    if not inside or files.is_folder(inside):
        return _search(files.below(inside) if inside else files, name)
    if not files.exists(inside):
        raise DatasetError(f"{name}: no such file or folder in {files}")
    if inside.lower().endswith(".json") and coco.is_coco(files, inside):
        return Layout("coco", name, (WHOLE,), lambda _: read_coco_file(contents, inside, name))
    if inside.lower().endswith((*yolo.SUFFIXES, yolo.DARKNET)):
        return yolo.open_yolo_file(contents, inside, name)
    if inside.lower().endswith(_ARCHIVES):
        if isinstance(files, ZipFiles):
            raise DatasetError(f"{name}: an archive in another; unpack {files.archive} first")
        raise DatasetError(f"{name}: an archive that is no zip; unpack it, and give the folder")
    known = form_of_file(files, inside)
    what = known or "not a zip, a folder, a COCO .json, a .yaml or a .data"
    raise DatasetError(f"{name}: {what}" + ("" if known else f"; expected {FORMS}"))


def _search(files: Files, name: str) -> Layout:
    """Look in a place, then in the only folder in it, as archives have one around everything."""
    places, folder = [Contents(files)], ""
    while len(places) < _DEPTH and len(folders := places[-1].files.folders()) == 1:
        folder = posixpath.join(folder, folders[0])
        places.append(Contents(files.below(folder), outer=(places[0], folder)))
    for finders in _FINDERS:
        for place in places:
            for find in finders:
                layout = find(place, name)
                if layout is not None:
                    return layout
    known = name_foreign(places[0])
    raise DatasetError(f"{name}: {known}" if known else _nothing_in(places[0], name))


def _nothing_in(contents: Contents, name: str) -> str:
    if not contents.names:
        return f"{name}: is empty; expected {FORMS}"
    if all(posixpath.splitext(one)[1].lower() in SUFFIXES for one in contents.names):
        return (
            f"{name}: holds pictures, but no annotations; name the folder that holds both, or "
            f"let a model make a start: ssd34 data label {name} --output NEW_FOLDER"
        )
    if packed := contents.ending(*_ARCHIVES):
        return f"{name}: holds no data set that is known, but archives; unpack {packed[0]} first"
    some = ", ".join(contents.names[:4])
    more = ", ..." if len(contents.names) > 4 else ""
    return f"{name}: holds no data set that is known, but {some:.200}{more}; expected {FORMS}"


def choose_part(
    dataset: Dataset, *, coco_names: bool = False, own_ids: bool = False,
    classes: Sequence[str] = (), limit: int | None = None,
) -> Dataset:  # fmt: skip
    """The part of a data set that was asked for: with `coco_names` under COCO's names, as
    `use_coco_names`; only some classes' boxes, as `select_classes`; only the first so many
    pictures."""
    if coco_names:
        dataset = use_coco_names(dataset, own_ids=own_ids)
    if classes:
        dataset = select_classes(dataset, classes)
    return dataclasses.replace(dataset, samples=dataset.samples[:limit])


def select_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same pictures with only some classes' boxes; OptionError where there is no such class."""
    kept = sorted({dataset.labels.label(name) for name in names})
    new_label = {label: k for k, label in enumerate(kept, start=1)}
    labels = LabelSet(
        tuple(dataset.labels.name(label) for label in kept),
        tuple(dataset.labels.category_id(label) for label in kept),
    )
    samples = []
    for sample in dataset.samples:
        some = sample.of(np.isin(sample.labels, kept))
        new = np.array([new_label[int(label)] for label in some.labels], np.int64)
        samples.append(dataclasses.replace(some, labels=new))
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))


def rename_classes(dataset: Dataset, names: Mapping[str, str], *, own_ids: bool = False) -> Dataset:
    """The same data set with other class names, old to new; OptionError where it has no such class.
    Those that get the same name become one, with the first's category id. Category ids become
    COCO's if all names are COCO's then, unless `own_ids` are to stay."""
    for name in names:
        dataset.labels.label(name)
    new = [names.get(name, name) for name in dataset.labels.names]
    ids: dict[str, int] = {}
    for name, category in zip(new, dataset.labels.category_ids, strict=True):
        ids.setdefault(name, category)
    coco = not own_ids and set(ids) <= set(COCO_LABELS.names)
    labels = number_classes(ids) if coco else LabelSet(tuple(ids), tuple(ids.values()))
    table = np.array([0, *(labels.label(name) for name in new)], np.int64)
    samples = (dataclasses.replace(s, labels=table[s.labels]) for s in dataset.samples)
    return dataclasses.replace(dataset, labels=labels, samples=tuple(samples))


def use_coco_names(dataset: Dataset, *, own_ids: bool = False) -> Dataset:
    """`rename_classes` of those that VOC calls otherwise to COCO's names."""
    names = {old: new for old, new in COCO_NAMES.items() if old in dataset.labels.names}
    return rename_classes(dataset, names, own_ids=own_ids)
