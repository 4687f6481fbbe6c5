"""``ssd34 convert``."""

from __future__ import annotations

from pathlib import Path

import click

from ssd34.cli.console import emit_json, json_flag, warn
from ssd34.core.spec import SPECS, named_spec
from ssd34.errors import CheckpointError, OptionError, require
from ssd34.text import counted
from ssd34.workflows.outputs import check_outputs


@click.command(short_help="Turn a benchmark checkpoint into one of ours.")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.pth")
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option(
    "--spec", "spec_name", type=click.Choice(list(SPECS)),
    help="The network of the file: the weights of the 300 and 1200 pixel networks have the same "
    "shapes. [default: ssd1200, on the file's backbone]",
)  # fmt: skip
@json_flag
def convert(*, source: Path, output: Path, spec_name: str | None, as_json: bool) -> None:
    """Turn a checkpoint of the SSD training or inference benchmark (.pth, .pytorch) into a
    checkpoint of ours.

    The file is a pickle: only tensors are read from it, and anything else is refused.

    Example: ssd34 convert resnet34-ssd1200.pth ssd1200.safetensors
    """
    require("torch", extra="train", why="reading a .pth file")
    from ssd34.core.labels import COCO_LABELS, LabelSet
    from ssd34.files.checkpoint import Checkpoint, is_named_checkpoint
    from ssd34.network.pretrained import convert_benchmark_weights, read_torch_file
    from ssd34.network.ssd import SSD, load_weights

    if not is_named_checkpoint(output):
        raise OptionError(f"{output}: expected a name that ends in .safetensors")
    check_outputs((output,), files=(source,))
    wanted = named_spec(spec_name) if spec_name else None
    spec, weights = convert_benchmark_weights(
        read_torch_file(source), source=str(source), spec=wanted
    )
    try:
        load_weights(SSD(spec), weights, source=str(source))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; name the file's own network with --spec") from None
    if spec.num_classes == len(COCO_LABELS):
        labels = COCO_LABELS
    else:
        labels = LabelSet.from_names(f"class {k}" for k in range(1, spec.num_classes + 1))
    if not output.absolute().parent.is_dir():
        raise CheckpointError(f"{output}: the folder {output.parent} does not exist; make it first")
    notes = {"converted_from": source.name}
    Checkpoint(spec=spec, labels=labels, weights=weights, state={"notes": notes}).save(output)
    if as_json:
        values = {"file": str(output), "spec": spec.name, "assumed": wanted is None}
        emit_json({**values, "classes": list(labels.names), "arrays": len(weights)})
    else:
        click.echo(f"{output}: {spec.name}, {counted(len(labels), 'class')}, {len(weights)} arrays")
    if wanted is None:
        small = spec.name.replace("ssd1200", "ssd300")
        warn(
            f"assumed {spec.name}: a file does not tell its input size; for the other network "
            f"give --spec {small}"
        )
