"""One part of a job: pictures to the bytes of a Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd34.cluster.job import Task
from ssd34.cluster.pictures import Loader, Picture
from ssd34.core.detections import Detections
from ssd34.errors import ImageError
from ssd34.images.read import LargeImageError
from ssd34.machine import overlapped
from ssd34.runtime.detector import PreparedPicture

_METADATA = "ssd34"

Moved = Callable[[int, int], None]
"""Called with the pictures of a part that are done, and how many of them have errors."""


@dataclass(frozen=True)
class PartFacts:
    """What a part's file says of itself: its rows, those of them that could not be read, and the
    objects in all."""

    pictures: int
    errors: int
    detections: int


class PartWorker:
    """A detector that does one part after the other."""

    def __init__(self, task: Task, *, threads: int) -> None:
        """Load it; errors as of `Task.load`."""
        self._task = task
        self._threads = threads
        self._detector = task.load(threads=threads)
        self._labels = [self._detector.labels.label(name) for name in task.options.classes]

    def detect(
        self, part: int, pictures: Sequence[Picture], moved: Moved = lambda *_: None
    ) -> bytes:
        """A whole Parquet file of a part's pictures, in order, the same wherever and however often
        it is made. Memory holds its rows and a few pictures. ModelError: the model gave no
        detections."""
        store = self._task.store
        readers = max(store.readers, 1 + self._threads // 4)
        rows: list[dict[str, Any]] = []
        errors = 0
        coming = overlapped(
            self._prepare, store.loaders(pictures), ahead=2 * readers, threads=readers
        )
        with closing(coming):
            for picture, ready in zip(pictures, coming, strict=True):
                if isinstance(ready, ImageError):
                    errors += 1
                    rows.append(_row(picture, error=ready))
                else:
                    rows.append(_row(picture, found=self._find(ready)))
                moved(len(rows), errors)
        return _parquet(rows, f"{self._task.identity} {part}")

    def _prepare(self, load: Loader) -> PreparedPicture | ImageError:
        """In a thread, while the network works on pictures before."""
        try:
            return self._detector.prepare(load(), max_pixels=self._task.options.max_pixels)
        except LargeImageError as error:
            return ImageError(f"{error}, or raise the limit with --max-pixels")
        except ImageError as error:
            return error

    def _find(self, prepared: PreparedPicture) -> Detections:
        found = self._detector.find(prepared, score=self._task.options.score)
        return found.where(np.isin(found.labels, self._labels)) if self._labels else found


def _row(
    picture: Picture, *, found: Detections | None = None, error: ImageError | None = None
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": picture.id, "path": _valid(picture.name)}
    if found is not None:
        row |= {
            "width": found.width,
            "height": found.height,
            "boxes": found.boxes.tolist(),
            "labels": found.labels.tolist(),
            "names": list(found.names),
            "scores": found.scores.tolist(),
        }
    if error is not None:
        reason = str(error).removeprefix(f"{picture.name}: ").removeprefix("the picture: ")
        row["error"] = _valid(reason)
    return row


def _valid(text: str) -> str:
    """Text that UTF-8 can hold: names of files may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _parquet(rows: list[dict[str, Any]], key: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("labels", pa.list_(pa.int32())),
            ("names", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
            ("error", pa.string()),
        ],
        metadata={_METADATA: key},
    )
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream, compression="zstd")
    return bytes(stream.getvalue())


def read_facts(file: Path, task: Task, part: int) -> PartFacts | None:
    """What a finished part says of itself; None where it is missing, broken, or another's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            metadata = opened.schema_arrow.metadata or {}
            if metadata.get(_METADATA.encode()) != f"{task.identity} {part}".encode():
                return None
            errors = opened.read(["error"]).column("error")
            scores = opened.read(["scores"]).column("scores")
    except (pa.ArrowException, OSError):
        return None
    return PartFacts(
        len(errors), len(errors) - errors.null_count, sum(len(c.flatten()) for c in scores.chunks)
    )
