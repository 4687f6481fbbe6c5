"""What a job looks at: anything that holds pictures, here or behind a URL, as a list.

The list is in the same order wherever and whenever it is made. Names in files that somebody else
wrote (COCO, Parquet, archives) never lead out of the folder or archive.
"""

from __future__ import annotations

import glob
import io
import json
import os
import posixpath
import re
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.cluster import pictures as listing
from ssd34.cluster.job import holds_parts
from ssd34.cluster.parquet import list_in_parquet
from ssd34.cluster.pictures import Picture, Pictures, is_picture_name, list_in_folder
from ssd34.datasets.builder import parse_whole
from ssd34.datasets.coco import MAX_JSON_BYTES, find_images
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files import tree
from ssd34.files.tree import FolderFiles, ZipFiles
from ssd34.images.read import read_image_size
from ssd34.text import one_line

FORMS = (
    "a folder or a quoted pattern of pictures, a COCO .json or FILE.json@FOLDER, a .zip or .tar of "
    "pictures, .parquet files with pictures or their paths, or a URL"
)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_PARQUET = ".parquet"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_HEADER_BYTES = 1 << 20


def open_source(source: str, *, column: str | None = None) -> Pictures:
    """List the pictures of a source; none of them is read.

    Args:
        source: one of `FORMS`.
        column: the column of Parquet files that holds pictures or paths; None: the only one.

    Raises:
        ImageError: it does not exist, or holds no pictures.
        DatasetError: a COCO file, an archive or a Parquet file that cannot be read.
        OptionError: a column that is not there, or one of several has to be named.
        MissingExtraError: the source needs a package that is not installed.
    """
    if _URL.match(source):
        return list_behind_url(source)
    before, separator, folder = source.partition(".json@")
    if separator and not os.path.exists(source):
        return _in_coco(Path(f"{before}.json").absolute(), Path(folder).absolute())
    path = Path(source).absolute()  # workers on other machines have another current folder
    if os.path.isdir(path):
        tree.check_folder(path)
        return _in_folder(path, column=column)
    if os.path.isfile(path):
        return _in_file(path, column=column)
    if glob.has_magic(source):
        return _of_pattern(str(path), column=column)
    raise ImageError(f"{source}: no such file or folder; expected {FORMS}")


def _in_folder(folder: Path, *, column: str | None) -> Pictures:
    files = FolderFiles(folder)
    found = files.names(deep=True)
    names = [name for name in found if is_picture_name(name)]
    paths = [folder / tree.path_of(name) for name in found if name.lower().endswith(_PARQUET)]
    tables = [path for path in paths if not holds_parts(path.parent, below=folder)]
    if tables and not names:
        return list_in_parquet(tables, column=column)
    if paths and not tables and not names:
        raise ImageError(f"{folder}: holds what a job found, no pictures; name that job's source")
    return list_in_folder(files, names, str(folder))


def _of_pattern(pattern: str, *, column: str | None) -> Pictures:
    matches = filter(os.path.isfile, sorted(glob.glob(pattern, recursive=True)))
    paths = [Path(match) for match in matches]
    if paths and all(path.suffix.lower() == _PARQUET for path in paths):
        return list_in_parquet(paths, column=column)
    parts = Path(pattern).parts
    root = Path(*parts[: [glob.has_magic(part) for part in parts].index(True)])
    names = [tree.text_of(path.relative_to(root)).replace(os.sep, "/") for path in paths]
    return list_in_folder(FolderFiles(root), [n for n in names if is_picture_name(n)], pattern)


def _in_file(path: Path, *, column: str | None) -> Pictures:
    name = path.name.lower()
    if name.endswith(_PACKED):
        raise ImageError(
            f"{path}: a packed tar, in which no picture can be found without unpacking all before "
            "it; expected a plain .tar, so unpack it once"
        )
    if name.endswith(".json"):
        return _in_coco(path, None)
    if name.endswith(".tar"):
        return _in_tar(path)
    if name.endswith(_PARQUET):
        return list_in_parquet([path], column=column)
    if zipfile.is_zipfile(path):
        return _in_zip(path)
    if name.endswith(".zip"):
        raise DatasetError(f"{path}: not a zip; if it was cut off, fetch it again")
    if not is_picture_name(path.name):
        try:
            with path.open("rb") as stream:
                read_image_size(stream, str(path))
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; check its rights") from None
    return list_in_folder(FolderFiles(path.parent), [tree.text_of(path.name)], str(path))


def _in_zip(path: Path) -> Pictures:
    files = ZipFiles(path)
    try:
        names = [name for name in files.names(deep=True) if is_picture_name(name)]
        stamps = [[member.file_size, member.CRC] for member in map(files.member, names)]
    except tree.BROKEN_ZIP as error:
        raise DatasetError(f"{path}: broken archive ({error}); fetch it again") from None
    return listing.list_pictures(listing.NamedStore(files), str(path), names, stamps)


def _in_coco(file: Path, folder: Path | None) -> Pictures:
    """The pictures that a COCO file lists; it need not have annotations."""
    if not os.path.isfile(file):
        raise ImageError(f"{file}: no such file; expected {FORMS}")
    if folder is not None and not os.path.isdir(folder):
        raise DatasetError(
            f"{folder}: no such folder; behind .json@ expected that of the pictures of {file}"
        )
    data = tree.read_annotations(FolderFiles(file.parent), file.name, limit=MAX_JSON_BYTES)
    try:
        values = json.loads(data)
        ids = [parse_whole(entry["id"]) for entry in values["images"]]
        names = [str(entry["file_name"]) for entry in values["images"]]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"{file}: not a COCO file ({error!r:.100}); expected an object with the list 'images', "
            "each with id and file_name"
        ) from None
    if len(set(ids)) < len(ids) or not all(0 <= number < 1 << 63 for number in ids):
        raise DatasetError(
            f"{file}: expected image ids from 0 that are there once; see: ssd34 data check"
        )
    place = FolderFiles(folder or find_images(file, values))
    return list_in_folder(place, names, str(file), ids=ids)


class _SmallReads(io.FileIO):
    """A file that hands out no giant header, which tarfile would read whole."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


@dataclass(frozen=True)
class _TarStore(listing.Store):
    """Pictures in a plain tar, by offset and size."""

    path: Path

    def read(self, picture: Picture) -> bytes:
        """The bytes at its place."""
        offset, size = picture.place
        listing.check_bytes(picture.name, size)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ImageError(f"{picture.name}: {error.strerror} in {self.path}") from None
        if len(data) < size:
            raise ImageError(f"{picture.name}: cut off in {self.path}; fetch it again")
        return data


def _in_tar(path: Path) -> Pictures:
    names: list[str] = []
    places: list[tuple[int, int]] = []
    try:
        with _SmallReads(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                name = tree.normalise_name(member.name)
                if name is None:
                    raise DatasetError(
                        f"{path}: holds {member.name!r:.80}, a name that leads out of it"
                    )
                hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
                whole = member.isreg() and not member.issparse()
                if whole and not hidden and is_picture_name(name):
                    names.append(name)
                    places.append((member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        reason = one_line(error)
        raise DatasetError(f"{path}: not a whole tar archive ({reason}); fetch it again") from None
    stamp = listing.stamp_of(path)
    stamps = ([*place, stamp] for place in places)
    return listing.list_pictures(_TarStore(path), str(path), names, stamps, places=places)


_TRIES = 3
_TAGS = ("ETag", "etag", "md5Hash")
"""What the stores call that which changes with a file."""


@dataclass(frozen=True)
class _UrlStore(listing.Store):
    """Pictures below a URL; reading is mostly waiting."""

    system: Any
    root: str
    readers = 8

    def read(self, picture: Picture) -> bytes:
        """Tried again where it may have been the network."""
        name = picture.name
        for tried in range(1, _TRIES + 1):
            try:
                where = f"{self.root}/{name}" if self.root else name
                data: bytes = self.system.cat_file(where, start=0, end=tree.MAX_FILE_BYTES + 1)
            except Exception as error:  # each protocol has its own
                if isinstance(error, FileNotFoundError | PermissionError) or tried == _TRIES:
                    raise ImageError(f"{name}: {_reason(error)}") from None
                time.sleep(2 ** (tried - 1))
            else:
                listing.check_bytes(name, len(data))
                return data
        raise AssertionError


def _reason(error: Exception) -> str:
    """Without the text of the error, in which there may be a password."""
    status = getattr(error, "status", None)
    return f"cannot be read ({type(error).__name__}{f' {status}' if status else ''})"


def list_behind_url(url: str) -> Pictures:
    """The pictures below a URL, those that match a pattern, or one.

    Raises:
        ImageError: none are there, or they cannot be listed.
        OptionError: what reads such URLs is not installed.
        MissingExtraError: fsspec is not installed.
    """
    fsspec = require("fsspec", extra="batch", why="reading from URLs")
    shown = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
    try:
        system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
        elif is_picture_name(path):
            found = {path: system.info(path)}
        else:
            found = system.find(path, detail=True)
    except (ImportError, ValueError) as error:
        raise OptionError(f"{shown}: {error}; install what reads such URLs") from None
    except Exception as error:  # each protocol has its own
        raise ImageError(
            f"{shown}: {_reason(error)}; expected a folder, a pattern or a picture"
        ) from None
    files = {name: info for name, info in sorted(found.items()) if is_picture_name(name)}
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if glob.has_magic(path) else path
    root = posixpath.dirname(root) if root in files else root.rstrip("/")
    names = [name.removeprefix(f"{root}/") for name in files]
    if any(tree.normalise_name(name) != name for name in names):
        raise ImageError(f"{shown}: lists names that lead out of it; give the folder itself")
    stamps = (
        [info.get("size"), *(str(info[tag]) for tag in _TAGS if tag in info)]
        for info in files.values()
    )
    return listing.list_pictures(_UrlStore(system, root), shown, names, stamps)
