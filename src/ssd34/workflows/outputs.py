"""What a command is told to write can be written, and is nothing that it reads; what it is told to
read is of the kind that it takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import find_dataset, find_place, is_annotation
from ssd34.datasets.yolo import SUFFIXES as YAML
from ssd34.errors import DatasetError, ModelError, OptionError, Ssd34Error
from ssd34.files.atomic import is_special
from ssd34.files.tree import FolderFiles
from ssd34.zoo.names import EMBEDDED, FOREIGN, PUBLISHED, model_path


def check_kinds(*, models: Iterable[str] = (), data: Iterable[str | Path] = ()) -> None:
    """Refuse a data set where a model is expected with ModelError, and a model where a data set or
    pictures are with DatasetError. What is neither passes: whoever reads it says so."""
    swapped = next(filter(_is_model, map(str, data)), None)
    for model in models:
        if form := _form_of_data(model):
            remedy = f"; {swapped} is one, so exchange the two" if swapped else ""
            raise ModelError(
                f"{model}: a data set ({form}), no model; expected an ONNX file, a checkpoint or "
                f"the name of a model{remedy}"
            )
    if swapped:
        raise DatasetError(f"{swapped}: a model; expected a data set, or pictures, in this place")


_MODEL_SUFFIXES = (".onnx", ".safetensors", *FOREIGN)


def _is_model(text: str) -> bool:
    if os.path.exists(text):
        return _is_model_file(text)
    return text in (*EMBEDDED, *PUBLISHED)


def _is_model_file(text: str) -> bool:
    return os.path.isfile(text) and Path(text).suffix.lower() in _MODEL_SUFFIXES


def _form_of_data(model: str) -> str:
    """The form of the data set that stands where a model should; "" for anything else."""
    if model in (*EMBEDDED, *PUBLISHED) or _is_model_file(model) or not os.path.exists(model):
        return ""
    try:
        return find_dataset(model).format
    except Ssd34Error:
        return ""


def check_outputs(
    outputs: Iterable[Path | None],
    *,
    files: Iterable[Path] = (),
    models: Iterable[str] = (),
    data: Iterable[str | Path] = (),
    datasets: Iterable[Dataset] = (),
    made: Iterable[Path | None] = (),
) -> None:
    """Refuse, before the work, outputs that cannot be written or would replace an input.

    Devices and pipes are written to, not replaced. Inputs that are not there pass: whoever reads
    them says so.

    Args:
        outputs: what is to be written; None: nothing.
        files: what is read.
        models: paths or names of models that are read.
        data: paths of data sets, for their annotations.
        datasets: opened ones, for their pictures.
        made: folders that will be made; None: nothing.

    Raises:
        OptionError: an output is a folder, has no folder to lie in, is written twice or an input.
        OSError: an output's folder cannot be written.
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
        _check_rights(output)
        if (key := _identity(output)) in there:
            raise OptionError(f"{output}: is to be written twice; name two files")
        there[key] = output
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


def _check_rights(output: Path) -> None:
    """OSError, before the work, for a file that could not be written after it."""
    folder = Path(os.path.realpath(output)).parent
    while not os.path.exists(folder):  # it will be made
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(output)) from None


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
