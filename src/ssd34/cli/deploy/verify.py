"""``ssd34 verify``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd34.cli.console import MODEL, PRINTED, emit_json, file_of, json_option, threads_option, warn
from ssd34.errors import require
from ssd34.workflows.outputs import check_outputs
from ssd34.zoo.names import PUBLISHED, cache_path, find_cached_model, find_published

if TYPE_CHECKING:
    from ssd34.deploy.publish.checks import FileCheck, Verification

FAILED = 3
_RESULTS = {
    True: ("passed", "green"), False: ("FAILED", "bold red"), None: ("not run", "yellow"),
}  # fmt: skip
_SHOWN_LINES = 12


@click.command(short_help="Check a file against its test data and manifest.")
@click.argument("target", type=MODEL, metavar="FILE|TARBALL|FOLDER")
@click.option(
    "--manifest", type=click.Path(path_type=Path), metavar="FILE",
    help="What the file should be. [default: ONNX_HUB_MANIFEST.json beside it, if there is one]",
)  # fmt: skip
@click.option("--require-test-data", is_flag=True, help="Fail where there is no test data.")
@json_option
@threads_option
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

    check_outputs((file_of(json_file),), files=_read_by_verify(target, manifest), models=(target,))
    found = _verified(
        target, manifest=manifest, require_test_data=require_test_data,
        threads=threads or thread_budget(),
    )  # fmt: skip
    if json_file != PRINTED:
        for verification in found:
            _print(verification, target if len(found) == 1 else str(verification.file))
    values = [verification.to_dict() for verification in found]
    passed = all(verification.passed for verification in found)
    all_values = {"file": target, "passed": passed, "files": values}
    emit_json(values[0] if len(found) == 1 else all_values, json_file)
    for verification in found:
        shown = target if len(found) == 1 else verification.file
        failed = [check.name for check in verification.checks if check.passed is False]
        if failed:
            warn(f"{shown}: not verified: {', '.join(failed)}")
        for check in verification.checks:
            if not failed and check.name == "test data" and check.passed is None:
                warn(check.detail)
    if not all(verification.passed for verification in found):
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
