"""Detections kept while an evaluation runs, so that an interrupted one can be resumed: a text file
whose first line says of which evaluation, and each further line holds one picture. A last line that
a crash has torn is done again. Numbers read back as the very same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

from ssd34.datasets.dataset import Dataset, Problem, Sample
from ssd34.errors import OptionError
from ssd34.evaluate.evaluator import Found
from ssd34.evaluate.results import Results
from ssd34.files.atomic import naming
from ssd34.files.lock import file_locked
from ssd34.runtime.engine import ENGINES

FORMAT = "ssd34 partial evaluation"


class Partial:
    """A partial file open for writing; `found`: pictures done before, in the set's order."""

    def __init__(self, path: Path, file: BufferedWriter, found: tuple[Found, ...]) -> None:
        self.path = path
        self.found = found
        self._file = file

    def keep(self, found: Found) -> None:
        """Write one picture; it is safe from the end of this process on."""
        values: dict[str, Any] = {"image_id": found.sample.image_id}
        if found.problem:
            values["unreadable"] = found.problem.reason
        else:
            values["found"] = [
                np.column_stack((r.category_ids, r.boxes_xywh, r.scores)).tolist()
                for r in found.results
            ]
        with naming(self.path):
            self._file.write(json.dumps(values).encode() + b"\n")
            self._file.flush()


def locate_partial(output: Path) -> Path:
    """Where the partial file of an evaluation lies that will write `output`."""
    return output.with_name(f"{output.name}.partial")


def read_engine(path: Path) -> str | None:
    """The engine that an interrupted evaluation ran with; None where that is not known."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    engine = values.get("engine") if isinstance(values, dict) else None
    return engine if engine in ENGINES else None


@contextmanager
def open_partial(
    path: Path, identity: Mapping[str, Any], dataset: Dataset, *, resume: bool
) -> Iterator[Partial]:
    """Open a partial file of an evaluation of a data set; it is deleted if the block ends without
    error. `identity`, JSON-ready, must be the same to resume, which starts where there is no file.

    Raises:
        OptionError: without `resume`, there is one already; with it, it is of another evaluation
            or damaged; or another process writes it.
    """
    head = json.dumps({"file": FORMAT, **identity}).encode() + b"\n"
    with file_locked(path):
        if resume and path.exists():
            found, length = _read(path, identity, dataset, head)
            file = path.open("ab")
            file.truncate(length)
            if not length:
                file.write(head)
        else:
            try:
                file = path.open("xb")
            except FileExistsError:
                raise OptionError(
                    f"{path}: left by an interrupted evaluation; continue with --resume, or "
                    "delete it"
                ) from None
            found = ()
            file.write(head)
        try:
            with naming(path):
                file.flush()
            yield Partial(path, file, found)
        finally:
            with naming(path):
                file.close()
        path.unlink()


def _read(
    path: Path, identity: Mapping[str, Any], dataset: Dataset, head: bytes
) -> tuple[tuple[Found, ...], int]:
    """The pictures in a partial file, and how many bytes of it are whole lines."""
    found: list[Found] = []
    length = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                if number == 1 and not head.startswith(line):
                    raise _foreign(path)
                break  # torn
            try:
                values = json.loads(line)
                if number == 1:
                    _check(path, values, identity)
                else:
                    found.append(_found(values, dataset.samples[number - 2]))
            except (ValueError, TypeError, LookupError, OverflowError):
                raise OptionError(
                    f"{path}: damaged at line {number}; delete it and evaluate again"
                ) from None
            length += len(line)
    return tuple(found), length


def _foreign(path: Path) -> OptionError:
    return OptionError(f"{path}: not a partial evaluation; move it away")


def _check(path: Path, values: Any, identity: Mapping[str, Any]) -> None:
    if not isinstance(values, dict) or values.get("file") != FORMAT:
        raise _foreign(path)
    for key, value in identity.items():
        kept = values.get(key)
        if kept != json.loads(json.dumps(value)):
            raise OptionError(
                f"{path}: belongs to another evaluation, its {key.replace('_', ' ')} being "
                f"{kept!s:.64} and not {value!s:.64}; repeat that command, or delete the file "
                "and evaluate again"
            )


def _found(values: Mapping[str, Any], sample: Sample) -> Found:
    if values["image_id"] != sample.image_id:
        raise ValueError(values["image_id"])
    if "unreadable" in values:
        return Found(sample, (), Problem(sample.file_name, str(values["unreadable"])))
    tables = (np.array(rows, np.float64).reshape(-1, 6) for rows in values["found"])
    results = (
        Results(
            np.full(len(t), sample.image_id, np.int64), t[:, 0].astype(np.int64), t[:, 1:5], t[:, 5]
        )
        for t in tables
    )
    return Found(sample, tuple(results))
