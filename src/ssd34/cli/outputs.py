"""The files that a command is told to write: they can be, and none of them is one that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ssd34.data.dataset import Dataset
from ssd34.data.files import FolderFiles
from ssd34.data.formats import is_annotation_name, place_of
from ssd34.data.yolo import SUFFIXES as YAML
from ssd34.errors import ModelError, OptionError


def check_places(files: Iterable[Path | None], *, made: Path | None = None) -> None:
    """Refuse files that cannot be written, before the work.

    Args:
        files: what is to be written; None: nothing.
        made: a folder that will be there.

    Raises:
        OptionError: one is a folder, or its folder is not there.
    """
    for file in files:
        if file is None:
            continue
        parent = file.absolute().parent
        there = parent.is_dir() or (made is not None and parent == made.absolute())
        if file.is_dir() or not there:
            raise OptionError(f"{file}: expected a file to write in a folder that exists")


def check_outputs(
    outputs: Iterable[Path | None],
    *,
    files: Iterable[Path] = (),
    models: Iterable[str] = (),
    data: Iterable[str] = (),
    datasets: Iterable[Dataset] = (),
) -> None:
    """Refuse outputs that would overwrite an input or one another; called before the work.

    Devices and pipes are written to, not replaced, and pass. Inputs that are not there pass, too:
    whoever reads them says so.

    Args:
        outputs: what is to be written; None: nothing.
        files: what is read.
        models: paths or names of models that are read.
        data: paths of data sets, for their annotations.
        datasets: opened ones, for their pictures.

    Raises:
        OptionError: two outputs are one file, or an output is an input; the message says which.
    """
    wanted = [output for output in outputs if output is not None]
    _check_each_once(wanted)
    there = {_identity(output): output for output in wanted if os.path.isfile(output)}
    if not there:
        return
    for paths in (files, _model_files(models), _pictures(datasets)):
        for path in paths:
            with suppress(OSError):
                output = there.get(_identity(path))
                if output is not None:
                    raise _is_read(output, path)
    for source in map(place_of, data):
        for output in there.values():
            with suppress(OSError):
                if output.samefile(source):
                    raise _is_read(output, source)
            if _is_annotation(output, source):
                raise OptionError(
                    f"{output}: expected a file that is not read here, got one of the data set "
                    f"{source}; name another file"
                )


def _is_read(output: Path, path: str | Path) -> OptionError:
    return OptionError(
        f"{output}: expected a file that is not read here, got the input {path}, which it would "
        "overwrite; name another file"
    )


def _identity(path: str | Path) -> tuple[int, int]:
    """What samefile compares."""
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _check_each_once(outputs: Iterable[Path]) -> None:
    seen: set[object] = set()
    for output in outputs:
        if os.path.exists(output) and not os.path.isfile(output):
            continue
        key = _identity(output) if os.path.isfile(output) else os.path.realpath(output)
        if key in seen:
            raise OptionError(f"{output}: is to be written twice; name two files")
        seen.add(key)


def _model_files(models: Iterable[str]) -> Iterator[Path]:
    from ssd34.runtime.detector import model_path

    for model in models:
        with suppress(ModelError):
            yield model_path(model)


def _pictures(datasets: Iterable[Dataset]) -> Iterator[str]:
    for dataset in datasets:
        if isinstance(dataset.images, FolderFiles):
            for sample in dataset.samples:
                yield os.path.join(dataset.images.root, sample.file_name)


def _is_annotation(output: Path, source: Path) -> bool:
    """Whether a file below a data set's folder, itself or as a link, may be read with it."""
    if not source.is_dir() and source.suffix.lower() not in YAML:
        return False  # a file alone
    below = os.path.realpath(source if source.is_dir() else source.parent)
    places = (
        Path(os.path.realpath(output)),
        Path(os.path.realpath(output.absolute().parent), output.name),
    )
    return any(place.is_relative_to(below) and is_annotation_name(place) for place in places)
