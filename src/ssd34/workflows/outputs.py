"""The files that a command is told to write: they can be, and none of them is one that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import find_place, is_annotation
from ssd34.datasets.yolo import SUFFIXES as YAML
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import is_special
from ssd34.files.tree import FolderFiles
from ssd34.zoo.names import model_path


def check_outputs(
    outputs: Iterable[Path | None],
    *,
    files: Iterable[Path] = (),
    models: Iterable[str] = (),
    data: Iterable[str | Path] = (),
    datasets: Iterable[Dataset] = (),
    made: Iterable[Path | None] = (),
) -> None:
    """Refuse with OptionError, before the work, outputs that are a folder, have no folder to lie in
    (`made`: will be made), are written twice, or would replace an input: files, models by path or
    name, annotations of data sets by path, pictures of opened ones.

    Devices and pipes are written to, not replaced. Inputs that are not there pass: whoever reads
    them says so.
    """
    wanted = [output for output in outputs if output is not None]
    folders = [folder.absolute() for folder in made if folder is not None]
    there: dict[object, Path] = {}
    for output in wanted:
        parent = output.absolute().parent
        made_later = any(map(parent.is_relative_to, folders))
        if output.is_dir() or not (parent.is_dir() or made_later):
            why = "is a folder" if output.is_dir() else f"the folder {parent} does not exist"
            raise OptionError(f"{output}: {why}; expected a file to write in a folder that exists")
        if is_special(output):
            continue
        if there.setdefault(_identity(output), output) is not output:
            raise OptionError(f"{output}: is to be written twice; name two files")
    there = {key: output for key, output in there.items() if os.path.isfile(output)}
    if not there:
        return
    places = [find_place(one) for one in data]
    read: tuple[str | Path, ...] = (*files, *_model_files(models), *places, *_pictures(datasets))
    for path in read:
        if (key := _identity(path)) in there:
            raise _is_read(there[key], path)
    for place in places:
        for output in there.values():
            if _is_annotation(output, place):
                raise _is_read(output, place)


def _is_read(output: Path, path: str | Path) -> OptionError:
    return OptionError(
        f"{output}: expected a file that is not read here, got the input {path}, which it would "
        "overwrite; name another file"
    )


def _identity(path: str | Path) -> object:
    """The same for two paths of one file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _model_files(models: Iterable[str]) -> Iterator[Path]:
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
    return any(place.is_relative_to(below) and is_annotation(place) for place in places)
