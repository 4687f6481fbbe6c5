"""The file of the float model that a command is given: by path or by name."""

from __future__ import annotations

from pathlib import Path

from ssd34.data.checkpoint import is_named_checkpoint
from ssd34.errors import OptionError
from ssd34.runtime.detector import model_path

FOREIGN = (".pth", ".pt", ".pytorch")
"""What torch's own files end in."""


def float_file(model: str) -> Path:
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
