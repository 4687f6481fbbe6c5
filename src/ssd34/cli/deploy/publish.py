"""``ssd34 package`` and ``verify``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd34.cli import console
from ssd34.errors import require
from ssd34.workflows.outputs import check_kinds, check_outputs
from ssd34.zoo.names import PUBLISHED, cache_path, find_cached_model, find_published


@click.command(short_help="Write a model with test data, manifest and model card.")
@click.argument("model", type=console.MODEL)
@click.option("--output", required=True, type=console.FOLDER, metavar="DIR")
@click.option(
    "--picture", required=True, type=console.FILE, metavar="FILE",
    help="A real picture: the input of the test data.",
)  # fmt: skip
@click.option("--name", help="Name of the files. [default: the network's name]")
@click.option(
    "--measured", multiple=True, type=console.FILE, metavar="FILE",
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
@console.json_flag
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
        model_path(model), output=output, picture=read_image(picture), licence=licence, **options,
    )  # fmt: skip
    sizes = {
        name: {"file": str(file), "bytes": file.stat().st_size}
        for name in ("model", "tarball", "manifest", "card", "triton")
        if (file := getattr(written, name)) is not None
    }
    if as_json:
        console.emit_json(sizes)
        return
    for one in sizes.values():
        click.echo(f"{one['file']}: {one['bytes']} bytes")


if TYPE_CHECKING:
    from ssd34.deploy.publish.manifest import FileCheck, Verification

FAILED = 3
_RESULTS = {
    True: ("passed", "green"), False: ("FAILED", "bold red"), None: ("not run", "yellow"),
}  # fmt: skip
_SHOWN_LINES = 12


@click.command(short_help="Check a file against its test data and manifest.")
@click.argument("target", type=console.MODEL, metavar="FILE|TARBALL|FOLDER")
@click.option(
    "--manifest", type=console.FILE, metavar="FILE",
    help="What the file should be. [default: ONNX_HUB_MANIFEST.json beside it, if there is one]",
)  # fmt: skip
@click.option("--require-test-data", is_flag=True, help="Fail where there is no test data.")
@console.json_option
@console.threads_option
def verify(
    *,
    target: str,
    manifest: Path | None,
    require_test_data: bool,
    json_file: Path | None,
    threads: int | None,
) -> None:
    """Check an ONNX file, a tarball or folder with one, or a model given by name.

    It checks checksum, structure, inputs and outputs, and replays every test_data_set_* folder. In
    a folder that ssd34 package wrote it checks every file and tarball. For a published model it
    also checks the tarball that was pulled with it. If a check fails, the exit code is 3.

    Example: ssd34 verify ssd-12.tar.gz --require-test-data
    """
    require("onnx", extra="export", why="verify")
    from ssd34.machine import thread_budget

    check_kinds(models=(target,))
    check_outputs(
        (console.file_of(json_file),), files=_read_by_verify(target, manifest), models=(target,)
    )
    found = _verified(
        target, manifest=manifest, require_test_data=require_test_data,
        threads=threads or thread_budget(),
    )  # fmt: skip
    if json_file != console.PRINTED:
        for verification in found:
            _print(verification, target if len(found) == 1 else str(verification.file))
    values = [verification.to_dict() for verification in found]
    passed = all(verification.passed for verification in found)
    every = {"file": target, "passed": passed, "files": values}
    console.emit_json(values[0] if len(found) == 1 else every, json_file)
    for verification in found:
        shown = target if len(found) == 1 else verification.file
        failed = [check.name for check in verification.checks if check.passed is False]
        if failed:
            console.warn(f"{shown}: not verified: {', '.join(failed)}")
        for check in verification.checks:
            if not failed and check.name == "test data" and check.passed is None:
                console.warn(check.detail)
    if not passed:
        raise SystemExit(FAILED)


def _read_by_verify(target: str, manifest: Path | None) -> Iterator[Path]:
    """Files that are read besides a model; of a folder all but its other JSON files, which may be
    what an earlier check wrote."""
    from ssd34.deploy.publish.manifest import MANIFEST_NAME

    if manifest:
        yield manifest
    path = Path(target)
    if path.is_dir():
        for file in path.rglob("*"):
            if file.suffix.lower() != ".json" or file.name == MANIFEST_NAME:
                yield file
    else:
        yield path.parent / MANIFEST_NAME
        yield from path.parent.glob("test_data_set_*/*.pb")


def _verified(target: str, *, manifest: Path | None, **how: Any) -> list[Verification]:
    from ssd34.deploy.publish.verify import verify, verify_folder
    from ssd34.zoo.names import model_path

    if target in PUBLISHED and manifest is None:
        return [verify_published(target, **how)]
    if os.path.isdir(target):
        return verify_folder(Path(target), manifest=manifest, **how)
    return [verify(model_path(target), manifest=manifest, **how)]


def verify_published(
    name: str, *, require_test_data: bool = False, threads: int = 1
) -> Verification:
    """Check a published model that is on this machine: it has to be the very file that was
    published. The test data of its archive are replayed if it has been pulled, too. ModelError: no
    such model, or it is not here."""
    from ssd34.deploy.publish.manifest import Expected, Stated
    from ssd34.deploy.publish.verify import verify_against

    model = find_published(name)
    file, packed = model.model, model.test_data
    archive = cache_path(packed) if packed else None
    # Of another size it is not the published file; the checks say so better than an error.
    path = cache_path(file) if cache_path(file).is_file() else find_cached_model(name)
    expected = Expected(
        source="the catalogue",
        model=Stated(file.size, file.sha256),
        archive=Stated(packed.size, packed.sha256) if packed else None,
        lacking="the catalogue says nothing of inputs and outputs",
        remedy=f"fetch it again with: ssd34 models pull {name}",
    )
    archive = archive if archive and archive.is_file() else None
    return verify_against(
        path, archive, expected, require_test_data=require_test_data, threads=threads
    )


def _print(verification: Verification, title: str) -> None:
    table = Table("check", "result", "detail", title=Text(title, style="table.title"))
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    table.columns[1].no_wrap = True
    for check in verification.checks:
        word, style = _RESULTS[check.passed]
        table.add_row(Text(check.name), Text(word, style=style), Text(_shortened(check)))
    Console(highlight=False, emoji=False).print(table)


def _shortened(check: FileCheck) -> str:
    lines = check.detail.splitlines()
    more = len(lines) - _SHOWN_LINES
    if more > 0:
        lines = [*lines[:_SHOWN_LINES], f"and {more} more, all of them in --json"]
    return "\n".join(lines)
