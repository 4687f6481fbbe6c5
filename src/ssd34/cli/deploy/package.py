"""``ssd34 package``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssd34.cli.console import MODEL, emit_json, json_flag
from ssd34.errors import require
from ssd34.zoo.names import PUBLISHED


@click.command(short_help="Write a model with test data, manifest and model card.")
@click.argument("model", type=MODEL)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR"
)
@click.option(
    "--picture", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="A real picture: the input of the test data.",
)  # fmt: skip
@click.option("--name", help="Name of the files. [default: the network's name]")
@click.option(
    "--measured", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="JSON of ssd34 evaluate or ssd34 benchmark, for the model card; may be repeated.",
)  # fmt: skip
@click.option(
    "--license", "licence", metavar="ID",
    help="Licence of the weights, such as apache-2.0, for the model card. [default: that of a "
    "model given by name, else that of the existing model card]",
)  # fmt: skip
@click.option(
    "--replace", is_flag=True,
    help="Replace another model of the same file name, or a README.md that is no model card of "
    "ours.",
)  # fmt: skip
@click.option(
    "--triton", is_flag=True, help="Also write it into triton/, a model repository for Triton."
)
@json_flag
def package(
    *, model: str, output: Path, picture: Path, licence: str | None, as_json: bool, **options: Any
) -> None:
    """Write MODEL in the form of the ONNX Model Zoo.

    The folder gets NAME-OPSET[-int8|-qdq].onnx, the same as .tar.gz with a test data set,
    ONNX_HUB_MANIFEST.json and README.md. What does not pass ssd34 verify is not written. Numbers on
    the model card come from measurements of this very file. Cells without one stay empty.

    Example: ssd34 package mine.onnx --output out --picture photo.jpg
    """
    require("onnx", extra="export", why="packaging")
    from ssd34.deploy.publish.package import package as write_package
    from ssd34.files.lock import folder_locked
    from ssd34.images.read import read_image
    from ssd34.zoo.names import EMBEDDED, model_path

    if licence is None and model in EMBEDDED:
        licence = "apache-2.0"
    elif licence is None and model in PUBLISHED:
        licence = PUBLISHED[model].licence
    click.get_current_context().with_resource(folder_locked(output))
    written = write_package(
        model_path(model),
        output=output,
        picture=read_image(picture),
        licence=licence,
        **options,
    )
    sizes = {
        name: {"file": str(file), "bytes": file.stat().st_size}
        for name in ("model", "tarball", "manifest", "card", "triton")
        if (file := getattr(written, name)) is not None
    }
    if as_json:
        emit_json(sizes)
        return
    for one in sizes.values():
        click.echo(f"{one['file']}: {one['bytes']} bytes")
