"""What a job looks at: a list of pictures, and how a worker reads each of them.

The list is in the same order wherever and whenever it is made. Names in files that somebody else
wrote (COCO, Parquet, archives) never lead out of the folder or archive.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import posixpath
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ssd34.datasets.builder import whole_of
from ssd34.datasets.coco import MAX_JSON_BYTES, find_images
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files.tree import (
    BROKEN_ZIP,
    MAX_FILE_BYTES,
    Files,
    FolderFiles,
    ZipFiles,
    normal,
    numbers_of,
    path_of,
    read_annotations,
    text_of,
)
from ssd34.images.read import SUFFIXES

FORMS = (
    "a folder or a quoted pattern of pictures, a COCO .json or FILE.json@FOLDER, a .zip or .tar of "
    "pictures, .parquet files with pictures or their paths, or a URL"
)

PATH_COLUMNS = ("path", "file_name", "file", "image_path")
"""Columns of text that are taken for paths where nobody names one."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_HEADER_BYTES = 1 << 20
_ROWS_AT_ONCE = 16
_URL_READERS = 8
_URL_TRIES = 3


class Picture(NamedTuple):
    """One picture of a job.

    Attributes:
        id: COCO's image id, or the number that stands in every name, or its number from 1.
        name: its path below the source, with forward slashes.
        place: where it is, as its store knows it: offset and bytes in a tar; file and row of
            Parquet.
    """

    id: int
    name: str
    place: tuple[int, int]


Loader = Callable[[], bytes]
"""Gives a picture file's bytes, or raises `ImageError`."""


class Store(Protocol):
    """Reads pictures; it pickles, and every worker has its own."""

    readers: int
    """Pictures that are best read at the same time."""

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        """A call for each picture, in order, that may be made in another thread."""
        ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a job.

    Attributes:
        names: (N,) paths below the source.
        ids: (N,) int64, see `Picture`.
        places: (N, 2) int64, see `Picture`.
        sha256: of names, ids, and what tells that a file was changed: its size and its time, the
            CRC in a zip, the tag of a URL.
        store: reads them.
    """

    names: Sequence[str]
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    sha256: str
    store: Store

    def __len__(self) -> int:
        return len(self.names)

    def some(self, start: int, stop: int) -> list[Picture]:
        """The pictures from number `start`, from 0, to before number `stop`."""
        places = map(tuple, self.places[start:stop].tolist())
        return list(map(Picture, self.ids[start:stop].tolist(), self.names[start:stop], places))


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
        return _in_url(source)
    before, separator, folder = source.partition(".json@")
    if separator and not os.path.exists(source):
        return _in_coco(Path(f"{before}.json"), Path(folder))
    path = Path(source)
    if os.path.isdir(path):
        return _in_folder(path, source, column=column)
    if os.path.isfile(path):
        return _in_file(path, column=column)
    if glob.has_magic(source):
        matches = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
        matches = [one for one in matches if os.path.isfile(one)]
        if matches and all(_is_parquet(one.name) for one in matches):
            return _in_parquet(matches, column=column)
        root = _fixed_part(source)
        names = [text_of(os.path.relpath(one, root)).replace(os.sep, "/") for one in matches]
        return _in_tree(FolderFiles(root), [n for n in names if is_picture_name(n)], source)
    raise ImageError(f"{source}: no such file or folder; expected {FORMS}")


def is_picture_name(name: str) -> bool:
    """Whether a file of this name, not hidden, is taken for a picture."""
    base = posixpath.basename(name)
    return posixpath.splitext(base)[1].lower() in SUFFIXES and not base.startswith(".")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


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
    if _is_parquet(name):
        return _in_parquet([path], column=column)
    if zipfile.is_zipfile(path):
        return _in_zip(path)
    return _in_tree(FolderFiles(path.parent), [text_of(path.name)], str(path))


def _listed(
    store: Store,
    source: str,
    names: Sequence[str],
    stamps: Iterable[object],
    *,
    ids: Sequence[int] | None = None,
    places: Sequence[tuple[int, int]] | None = None,
) -> Pictures:
    """
    Raises:
        ImageError: there are none.
    """
    if not names:
        endings = ", ".join(sorted(SUFFIXES))
        raise ImageError(f"{source}: holds no pictures (looked for files ending in {endings})")
    numbers = np.array(numbers_of(names) if ids is None else ids, np.int64)
    digest = hashlib.sha256()
    for number, name, stamp in zip(numbers.tolist(), names, stamps, strict=True):
        digest.update(json.dumps([number, name, stamp]).encode())
    where = np.zeros((len(names), 2), np.int64) if places is None else np.array(places, np.int64)
    return Pictures(names, numbers, where, digest.hexdigest(), store)


def _stamp(path: Path) -> list[int] | None:
    """What changes with a file; None where it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class _NamedStore(Store):
    """Pictures below a folder or in a zip, by their names."""

    files: Files
    readers: int = 1

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        return (partial(self.files.read_bytes, picture.name) for picture in pictures)


def _in_tree(
    files: FolderFiles, names: Sequence[str], source: str, *, ids: Sequence[int] | None = None
) -> Pictures:
    stamps = (_stamp(files.root / path_of(name)) if normal(name) else None for name in names)
    return _listed(_NamedStore(files), source, names, stamps, ids=ids)


def _in_folder(folder: Path, source: str, *, column: str | None) -> Pictures:
    files = FolderFiles(folder)
    found = files.names(deep=True)
    names = [name for name in found if is_picture_name(name)]
    tables = [name for name in found if _is_parquet(name)]
    if tables and not names:
        return _in_parquet([folder / path_of(name) for name in tables], column=column)
    return _in_tree(files, names, source)


def _in_zip(path: Path) -> Pictures:
    files = ZipFiles(path)
    try:
        names = [name for name in files.names(deep=True) if is_picture_name(name)]
        with zipfile.ZipFile(path) as archive:
            members = (archive.getinfo(name) for name in names)
            stamps = [[member.file_size, member.CRC] for member in members]
    except BROKEN_ZIP as error:
        raise DatasetError(f"{path}: broken archive ({error}); fetch it again") from None
    return _listed(_NamedStore(files), str(path), names, stamps)


def _in_coco(file: Path, folder: Path | None) -> Pictures:
    """The pictures that a COCO file lists; it need not have annotations."""
    if not os.path.isfile(file):
        raise ImageError(f"{file}: no such file; expected {FORMS}")
    if folder is not None and not os.path.isdir(folder):
        raise DatasetError(f"{folder}: no such folder of pictures for {file}")
    data = read_annotations(FolderFiles(file.parent), file.name, limit=MAX_JSON_BYTES)
    try:
        values = json.loads(data)
        entries = values["images"]
        ids = [whole_of(entry["id"]) for entry in entries]
        names = [str(entry["file_name"]) for entry in entries]
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
    return _in_tree(place, names, str(file), ids=ids)


class _SmallReads(io.FileIO):
    """A file that hands out no giant header, which tarfile would read whole."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


@dataclass(frozen=True)
class _TarStore(Store):
    """Pictures in a plain tar, by offset and size."""

    path: Path
    readers: int = 1

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        return (partial(self._read, picture) for picture in pictures)

    def _read(self, picture: Picture) -> bytes:
        offset, size = picture.place
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{picture.name}: larger than {MAX_FILE_BYTES >> 20} MiB; shrink it")
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
                tar.members = []  # else it keeps all of them
                name = normal(member.name)
                if name is None:
                    raise DatasetError(
                        f"{path}: holds {member.name!r:.80}, a name that leads out of it"
                    )
                hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
                if (
                    member.isreg()
                    and not member.issparse()
                    and not hidden
                    and is_picture_name(name)
                ):
                    names.append(text_of(name))
                    places.append((member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{path}: not a whole tar archive ({reason}); fetch it again") from None
    stamp = _stamp(path)
    stamps = ([*place, stamp] for place in places)
    return _listed(_TarStore(path), str(path), names, stamps, places=places)


@dataclass(frozen=True)
class _ParquetStore(Store):
    """Pictures in a column of bytes, by file and row."""

    files: tuple[Path, ...]
    column: tuple[str, ...]
    readers: int = 1

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        for number, of_file in groupby(pictures, key=lambda picture: picture.place[0]):
            yield from self._of_file(self.files[number], list(of_file))

    def _of_file(self, path: Path, pictures: list[Picture]) -> Iterator[Loader]:
        """Those of one file, whose rows follow each other."""
        import pyarrow

        done, reason = 0, "it has no such row"
        try:
            for value in islice(self._values(path, pictures[0].place[1]), len(pictures)):
                yield partial(_given, value, pictures[done].name)
                done += 1
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
        for picture in pictures[done:]:
            yield partial(_given, f"broken in {path.name} ({reason})", picture.name)

    def _values(self, path: Path, first: int) -> Iterator[Any]:
        """The column from a row on; of a row group in which it is, the rows before are passed."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path, buffer_size=_HEADER_BYTES) as file:
            start = 0
            groups = range(file.num_row_groups)
            sizes = [file.metadata.row_group(group).num_rows for group in groups]
            while groups and start + sizes[groups[0]] <= first:
                start += sizes[groups[0]]
                groups = groups[1:]
            for batch in file.iter_batches(
                _ROWS_AT_ONCE, row_groups=list(groups), columns=[".".join(self.column)],
                use_threads=False,
            ):  # fmt: skip
                if start + len(batch) > first:
                    values: Any = batch.column(0)
                    for inner in self.column[1:]:
                        values = values.field(inner)
                    for value in values[max(0, first - start) :]:
                        yield value.as_py()
                start += len(batch)


def _given(value: bytes | str | None, name: str) -> bytes:
    """A picture that was read already, or why it was not."""
    if isinstance(value, str):
        raise ImageError(f"{name}: {value}")
    if value is None or len(value) > MAX_FILE_BYTES:
        why = "holds no picture" if value is None else f"larger than {MAX_FILE_BYTES >> 20} MiB"
        raise ImageError(f"{name}: {why}")
    return value


def _in_parquet(files: Sequence[Path], *, column: str | None) -> Pictures:
    pyarrow = require("pyarrow", extra="batch", why="reading Parquet files")
    require("pyarrow.parquet", extra="batch", why="reading Parquet files")
    names: list[str] = []
    places: list[tuple[int, int]] = []
    stamps: list[Any] = []
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    tree = FolderFiles(root)
    chosen: tuple[str, ...] | None = None
    holds_pictures = True
    for number, path in enumerate(files):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if chosen is None:
                    chosen, holds_pictures = _column_of(file.schema_arrow, column, path)
                if holds_pictures:
                    rows = range(file.metadata.num_rows)
                    names += [f"{text_of(path.name)}#{row}" for row in rows]
                    places += [(number, row) for row in rows]
                    stamps += [_stamp(path)] * len(rows)
                else:
                    for batch in file.iter_batches(columns=list(chosen)):
                        for text in batch.column(0).to_pylist():
                            names.append(_named_path(text, path.absolute().parent, tree))
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DatasetError(
                f"{path}: not a Parquet file with the column {column or chosen} ({reason})"
            ) from None
    assert chosen is not None
    if not holds_pictures:
        return _in_tree(tree, names, str(files[0]), ids=range(1, len(names) + 1))
    store = _ParquetStore(tuple(file.absolute() for file in files), chosen)
    return _listed(store, str(files[0]), names, stamps, ids=range(1, len(names) + 1), places=places)


def _named_path(text: str | None, folder: Path, tree: FolderFiles) -> str:
    """A path that a Parquet file in `folder` gives, as a name in the tree; one that leads out of
    it stays as it is and is refused when it is read."""
    if not text:
        return ""
    return tree.inside(os.path.join(folder, text)) or text


def _column_of(schema: Any, wanted: str | None, path: Path) -> tuple[tuple[str, ...], bool]:
    """The column to read, and whether it holds pictures; else paths."""
    import pyarrow

    types = pyarrow.types
    columns: dict[tuple[str, ...], bool] = {}
    for field in schema:
        kind = field.type
        if types.is_binary(kind) or types.is_large_binary(kind):
            columns[(field.name,)] = True
        elif types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            columns[field.name, "bytes"] = True
        elif types.is_string(kind) or types.is_large_string(kind):
            columns[(field.name,)] = False
    if wanted is None:
        pictures = [name for name, holds in columns.items() if holds]
        found = pictures or [(name,) for name in PATH_COLUMNS if (name,) in columns][:1]
    else:
        found = [name for name in columns if name[0] == wanted]
    if len(found) != 1:
        has = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise OptionError(
            f"{path}: expected one column of pictures or paths, got {has:.300}; name it with "
            "--column"
        )
    return found[0], columns[found[0]]


@dataclass(frozen=True)
class _UrlStore(Store):
    """Pictures behind URLs, as fsspec reads them."""

    system: Any
    root: str
    readers: int = _URL_READERS

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        return (partial(self._read, picture.name) for picture in pictures)

    def _read(self, name: str) -> bytes:
        for tried in range(_URL_TRIES):
            try:
                where = f"{self.root}/{name}" if self.root else name
                data: bytes = self.system.cat_file(where, start=0, end=MAX_FILE_BYTES + 1)
                break
            except (FileNotFoundError, PermissionError) as error:
                raise ImageError(f"{name}: {_reason(error)}") from None
            except Exception as error:  # each protocol has its own
                if tried == _URL_TRIES - 1:
                    raise ImageError(f"{name}: {_reason(error)}, {_URL_TRIES} times") from None
                time.sleep(2**tried)
        if len(data) > MAX_FILE_BYTES:
            raise ImageError(f"{name}: larger than {MAX_FILE_BYTES >> 20} MiB; shrink it")
        return data


def _reason(error: Exception) -> str:
    """Without the text of the error, in which there may be a password."""
    status = getattr(error, "status", None)
    return f"cannot be read ({type(error).__name__}{f' {status}' if status else ''})"


def _in_url(source: str) -> Pictures:
    fsspec = require("fsspec", extra="batch", why="reading from URLs")
    shown = re.sub(r"//[^/@]*@", "//", source.partition("?")[0])
    try:
        system, path = fsspec.core.url_to_fs(source)
        if is_picture_name(path) and not glob.has_magic(path):
            found = {path: system.info(path)}
        elif glob.has_magic(path):
            found = system.glob(path, detail=True)
        else:
            found = system.find(path, detail=True)
    except (ImportError, ValueError) as error:
        raise OptionError(f"{shown}: {error}; install what reads such URLs") from None
    except Exception as error:  # each protocol has its own
        raise ImageError(f"{shown}: {_reason(error)}; expected {FORMS}") from None
    files = {name: info for name, info in sorted(found.items()) if is_picture_name(name)}
    root = posixpath.dirname(path) if path in files else path.rstrip("/")
    if glob.has_magic(root):
        root = root[: re.search(r"[*?\[]", root).start()].rpartition("/")[0]  # type: ignore[union-attr]
    names = [name.removeprefix(f"{root}/") for name in files]
    if any(normal(name) != name for name in names if not name.startswith("/")):
        raise ImageError(f"{shown}: lists names that lead out of it; expected {FORMS}")
    stamps = (
        [info.get("size"), *(str(info[key]) for key in ("ETag", "etag", "md5Hash") if key in info)]
        for info in files.values()
    )
    return _listed(_UrlStore(system, root), shown, names, stamps)
