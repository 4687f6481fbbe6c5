"""``ssd34 export``."""

from __future__ import annotations

from pathlib import Path

import click

from ssd34.errors import OptionError, require


@click.command(short_help="Write a checkpoint as an ONNX file.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.onnx")
@click.option("--opset", type=int, default=12, help="Version of the ONNX operators, 10 to 17.")
@click.option(
    "--tail", type=click.Choice(["zoo", "none"]), default="zoo",
    help="zoo: detections, as the published files. none: raw loc and conf, any batch.",
)  # fmt: skip
@click.option(
    "--weights", "weight_format", type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="How weights are stored; the arithmetic is float32 in any case.",
)  # fmt: skip
def export(*, checkpoint: Path, output: Path, opset: int, tail: str, weight_format: str) -> None:
    """Write a checkpoint as an ONNX file that ssd34 detect and any ONNX runtime can run."""
    require("onnx", extra="export", why="export")
    from ssd34.data.checkpoint import read_checkpoint
    from ssd34.deploy.export import ExportOptions, onnx_model
    from ssd34.deploy.graph import save_model

    if not output.absolute().parent.is_dir():
        raise OptionError(f"{output}: the folder {output.parent} does not exist; make it first")
    options = ExportOptions(
        opset=opset, weight_format=weight_format, **({} if tail == "zoo" else {"policy": None})
    )
    model = onnx_model(read_checkpoint(checkpoint), options)
    save_model(model, output)
    outputs = ", ".join(value.name for value in model.graph.output)
    click.echo(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, opset {opset}, weights {weight_format}, "
        f"outputs {outputs}"
    )
