"""The file of the float model that a command is given: by path or by name."""

from __future__ import annotations

import os
from pathlib import Path

from ssd34.errors import ModelError, OptionError
from ssd34.files.cache import PublishedFile, cache_folder
from ssd34.files.checkpoint import is_named_checkpoint
from ssd34.zoo.catalogue import PUBLISHED, find_published

FOREIGN = (".pth", ".pt", ".pytorch")
"""What torch's own files end in."""


def find_float_file(model: str) -> Path:
    """The file of a checkpoint, an ONNX file or a model's name. It is not opened.

    Raises:
        ModelError: no file and no known name; a checkpoint that is missing is told by its reader.
        OptionError: a file of torch's, which has to be converted first.
    """
    if is_named_checkpoint(Path(model)):
        return Path(model)
    path = model_path(model)
    if path.suffix.lower() in FOREIGN:
        raise OptionError(f"{model}: turn it into a checkpoint first, with: ssd34 convert")
    return path


EMBEDDED = {
    "default": "ssd300-resnet34-coco-13-qdq.onnx",
    "default-float": "ssd300-resnet34-coco.onnx",
}
"""Models that come with the package, by name."""


def model_path(name: str | Path) -> Path:
    """The file of a model given by path or by name, of an embedded or a published one.

    Raises:
        ModelError: neither a file nor a known name, or a published file that is not on this
            machine; nothing is downloaded here.
    """
    if str(name) in EMBEDDED:
        return Path(__file__).parent.parent / "weights" / EMBEDDED[str(name)]
    if str(name) in PUBLISHED:
        return find_cached_model(str(name))
    path = Path(name)
    if os.path.isdir(path):
        raise ModelError(f"{path}: is a folder; expected an ONNX file")
    if not os.path.isfile(path):
        raise ModelError(
            f"{name}: no such model; expected the path of an ONNX file or one of "
            f"{', '.join([*EMBEDDED, *PUBLISHED])}"
        )
    return path


def cache_path(file: PublishedFile) -> Path:
    """Where that file lies, or would lie."""
    return cache_folder() / "models" / file.name


def is_cached(file: PublishedFile) -> bool:
    """Whether it is there with the published size; its SHA-256 was checked when it came."""
    path = cache_path(file)
    return os.path.isfile(path) and path.stat().st_size == file.size


def find_cached_model(name: str) -> Path:
    """The ONNX file of a published model that has been pulled or put there by hand; ModelError,
    which says what to do, where it is not there or has another size."""
    file = find_published(name).model
    path = cache_path(file)
    if is_cached(file):
        return path
    state = "not on this machine"
    if os.path.isfile(path):
        state = f"its file here has {path.stat().st_size} bytes instead of {file.size}"
    raise ModelError(
        f"{name}: {state}; run: ssd34 models pull {name}; or put {file.name} at {path} "
        f"({file.size} bytes, SHA-256 {file.sha256})"
    )
