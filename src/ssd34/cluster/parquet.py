"""Pictures, or paths of pictures, in Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from ssd34.cluster import pictures as listing
from ssd34.cluster.pictures import Loader, Picture, Pictures
from ssd34.errors import DatasetError, ImageError, OptionError, require
from ssd34.files.tree import FolderFiles, text_of
from ssd34.text import one_line

PATH_COLUMNS = ("path", "file_name", "file", "image_path")
"""Columns of text that are taken for paths where nobody names one."""

_BUFFER = 1 << 20
_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class _ParquetStore(listing.Store):
    """Pictures in a column of bytes, by file and row."""

    files: tuple[Path, ...]
    column: tuple[str, ...]

    def loaders(self, pictures: Sequence[Picture]) -> Iterator[Loader]:
        """Those of a part, whose rows follow each other; they are read here, one by one."""
        for number, some in groupby(pictures, key=lambda picture: picture.place[0]):
            yield from self._of_file(self.files[number], list(some))

    def _of_file(self, path: Path, pictures: list[Picture]) -> Iterator[Loader]:
        import pyarrow

        done, reason = 0, f"broken in {path.name} (it has no such row)"
        try:
            for value in islice(self._values(path, pictures[0].place[1]), len(pictures)):
                yield partial(_given, value, pictures[done].name)
                done += 1
        except (pyarrow.ArrowException, OSError) as error:
            reason = f"broken in {path.name} ({one_line(error)})"
        for picture in pictures[done:]:
            yield partial(_given, reason, picture.name)

    def _values(self, path: Path, first: int) -> Iterator[bytes | None]:
        """The column from a row on. Of its row group the rows before are read and passed over."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER) as file:
            groups = range(file.num_row_groups)
            ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
            group = int(np.searchsorted(ends, first, side="right"))
            before = int(ends[group - 1]) if group else 0
            batches = file.iter_batches(
                _ROWS_AT_ONCE, row_groups=groups[group:], columns=[".".join(self.column)],
                use_threads=False,
            )  # fmt: skip
            values = (value for batch in batches for value in _inner(batch.column(0), self.column))
            for value in islice(values, first - before, None):
                yield value.as_py()


def _inner(values: Any, column: tuple[str, ...]) -> Any:
    for name in column[1:]:
        values = values.field(name)
    return values


def _given(value: bytes | str | None, name: str) -> bytes:
    """A picture that was read already, or why it was not."""
    if not isinstance(value, bytes):
        raise ImageError(f"{name}: {value or 'holds no picture'}")
    listing.check_bytes(name, len(value))
    return value


def list_in_parquet(files: Sequence[Path], *, column: str | None) -> Pictures:
    """The pictures in some files, or those whose paths, below the file's folder, are in them.

    Raises:
        DatasetError: no Parquet file, or one without the column of the others.
        OptionError: no such column, or one of several has to be named.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require("pyarrow", extra="batch", why="reading Parquet files")
    require("pyarrow.parquet", extra="batch", why="reading Parquet files")
    names: list[str] = []
    places: list[tuple[int, int]] = []
    stamps: list[Any] = []
    tree = FolderFiles(Path(os.path.commonpath([file.absolute().parent for file in files])))
    chosen, holds_pictures = None, True
    for number, path in enumerate(files):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if chosen is None:
                    chosen, holds_pictures = _column_of(file.schema_arrow, column, path)
                elif _columns_of(file.schema_arrow).get(chosen) != holds_pictures:
                    raise DatasetError(
                        f"{path}: expected a column {chosen[0]} of the same kind as in {files[0]}, "
                        f"got {_shown(file.schema_arrow)}"
                    )
                if holds_pictures:
                    rows = range(file.metadata.num_rows)
                    names += [f"{text_of(path.name)}#{row}" for row in rows]
                    places += [(number, row) for row in rows]
                    stamps += [listing.stamp_of(path)] * len(rows)
                    continue
                for batch in file.iter_batches(columns=list(chosen)):
                    for text in batch.column(0).to_pylist():
                        whole = os.path.join(path.absolute().parent, text or "")
                        # What leads out stays as it is, and is refused when it is read.
                        names.append(tree.inside(whole) or text or "")
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(
                f"{path}: not a Parquet file with the column {column or chosen} ({one_line(error)})"
            ) from None
    ids = range(1, len(names) + 1)
    if not holds_pictures:
        return listing.list_in_folder(tree, names, str(files[0]), ids=ids)
    store = _ParquetStore(tuple(file.absolute() for file in files), chosen or ())
    return listing.list_pictures(store, str(files[0]), names, stamps, ids=ids, places=places)


def _columns_of(schema: Any) -> dict[tuple[str, ...], bool]:
    """Columns that can be read, and whether each holds pictures; else paths."""
    import pyarrow

    types = pyarrow.types
    columns: dict[tuple[str, ...], bool] = {}
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:  # as Hugging Face writes
            columns[field.name, "bytes"] = True
        elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
            columns[(field.name,)] = True
        elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            columns[(field.name,)] = False
    return columns


def _shown(schema: Any) -> str:
    return f"{', '.join(f'{field.name} ({field.type})' for field in schema):.300}"


def _column_of(schema: Any, wanted: str | None, path: Path) -> tuple[tuple[str, ...], bool]:
    """The column to read, and whether it holds pictures; else paths."""
    columns = _columns_of(schema)
    if wanted is None:
        pictures = [name for name, holds in columns.items() if holds]
        found = pictures or [(name,) for name in PATH_COLUMNS if (name,) in columns][:1]
    else:
        found = [name for name in columns if name[0] == wanted]
    if len(found) != 1:
        raise OptionError(
            f"{path}: expected one column of pictures or paths, got {_shown(schema)}; name it with "
            "--column"
        )
    return found[0], columns[found[0]]
