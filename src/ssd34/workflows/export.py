"""A checkpoint, or a float file of this family, as an ONNX file: what ``export`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_network_model
from ssd34.deploy.graph.read import read_network
from ssd34.errors import OptionError
from ssd34.workflows.outputs import check_kinds, check_outputs
from ssd34.zoo.names import find_float_file


@dataclass(frozen=True)
class Exported:
    """The ONNX file that was written, what it is, and the names of its outputs."""

    path: Path
    options: ExportOptions
    outputs: tuple[str, ...]


def export(model: str | Path, output: str | Path, options: ExportOptions | None = None) -> Exported:
    """Write a checkpoint as an ONNX file that a `Detector` and any ONNX runtime can run.

    Args:
        model: path of a checkpoint or of a float ONNX file of this family, or a name.
        output: the file, ``.onnx``; it is written whole or not at all.
        options: what it should be; None: as the published files.

    Raises:
        CheckpointError, ModelError: no such model, or a broken one.
        OptionError: an option is outside what is allowed, or the file cannot be written.
        MissingExtraError: an optional library is not installed.
    """
    options, output = options or ExportOptions(), Path(output)
    if output.suffix.lower() != ".onnx":
        raise OptionError(f"{output}: expected a name that ends in .onnx, as other commands do")
    check_kinds(models=(str(model),))
    check_outputs((output,), models=(str(model),))
    made = make_network_model(read_network(find_float_file(str(model))), options)
    save_model(made, output)
    return Exported(output, options, tuple(value.name for value in made.graph.output))
