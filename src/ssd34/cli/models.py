"""``ssd34 models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ssd34.cli import console
from ssd34.errors import DownloadError, OptionError
from ssd34.files.cache import PublishedFile, cache_folder
from ssd34.zoo import names as zoo
from ssd34.zoo.names import PublishedModel


@click.group(short_help="List, fetch and find published models.", invoke_without_command=True)
@console.json_flag
@click.pass_context
def models(context: click.Context, *, as_json: bool) -> None:
    """List, fetch and find the published models.

    Without a command it prints the list. Each name in it stands for a model in all commands, once
    the file is pulled.

    Example: ssd34 models pull ssd-12-int8
    """
    if context.invoked_subcommand is None:
        _print_list(as_json=as_json)
    elif as_json:
        raise OptionError("--json belongs to the list; use: ssd34 models --json")


@models.command("list", short_help="List the published files and those on this machine.")
@console.json_flag
def list_models(*, as_json: bool) -> None:
    """List the published files and the models in the package.

    Example: ssd34 models list --json
    """
    _print_list(as_json=as_json)


@models.command(short_help="Fetch published models into the cache.")
@click.argument("names", type=console.PUBLISHED_NAME, nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--with-test-data", is_flag=True,
    help="Fetch the .tar.gz, too: the model, a tested input and its outputs.",
)  # fmt: skip
@console.json_flag
def pull(*, names: tuple[str, ...], with_test_data: bool, as_json: bool) -> None:
    """Fetch published models into the cache, checked by their SHA-256.

    The next pull resumes a partial download. A file that is there already is checked, not fetched.

    Example: ssd34 models pull ssd-10 ssd-12 --with-test-data
    """
    wanted: list[PublishedFile] = []
    for name in names:
        if name in zoo.EMBEDDED:
            raise OptionError(f"{name}: comes with the package, there is nothing to pull")
        entry = zoo.find_published(name)
        wanted.append(entry.model)
        if with_test_data:
            if entry.test_data is None:
                raise OptionError(f"{name}: no test data is published with it")
            wanted.append(entry.test_data)
    for file in dict.fromkeys(wanted):
        try:
            fetch(file, zoo.cache_path(file))
        except DownloadError as error:
            if not file.name.endswith(".tar.gz"):
                raise
            raise DownloadError(
                f"{error}; the mirrors were seen to have no test data: ssd34 package makes it from "
                "a model"
            ) from None
        if not as_json:
            click.echo(str(zoo.cache_path(file)))
    if as_json:
        console.emit_json({"files": [_file_values(file) for file in dict.fromkeys(wanted)]})


@models.command(short_help="Print the path of a model's file.")
@click.argument("name", type=console.MODEL_NAME)
@console.json_flag
def path(*, name: str, as_json: bool) -> None:
    """Print the path of the file of NAME.

    If a published model is not pulled, an error says where its file belongs.

    Example: ssd34 models path default
    """
    if name not in zoo.EMBEDDED:
        zoo.find_published(name)
    if as_json:
        console.emit_json({"name": name, "path": str(zoo.model_path(name))})
    else:
        click.echo(str(zoo.model_path(name)))


def _print_list(*, as_json: bool) -> None:
    models = [*map(_embedded, zoo.EMBEDDED), *map(_described, zoo.PUBLISHED.values())]
    if as_json:
        console.emit_json({"cache": str(cache_folder()), "models": models})
        return
    headings = ("name", "size", "opset", "precision", "mAP", "licence", "cached")
    table = console.plain_table(*headings, right=(1, 2, 4))
    table.columns[0].no_wrap = True
    for model in models:
        table.add_row(
            model["name"],
            "-" if model["bytes"] is None else f"{model['bytes'] / 1e6:.1f} MB",
            str(model["opset"]),
            f"{model['precision']} {model['form']}".strip(),
            f"{model['published_map'] or '-'} {'*' if model['map_caveat'] else ' '}",
            model["licence"],
            ("embedded" if model["embedded"] else "yes") if model["cached"] else "no",
        )
    out = console.wide_console()
    out.print(table)
    out.print(f"mAP is as published, on COCO val2017. *: {zoo.SPARSE_IDS}.")
    click.echo(f"cache: {cache_folder() / 'models'}")


def _described(entry: PublishedModel) -> dict[str, Any]:
    """What the list says of a published model; the JSON form of it."""
    return {
        "name": entry.name,
        "embedded": False,
        **_file_values(entry.model),
        "opset": entry.opset,
        "precision": entry.precision,
        "form": entry.form,
        "published_map": entry.published_map,
        "map_caveat": entry.map_caveat,
        "licence": entry.licence,
        "test_data": _file_values(entry.test_data) if entry.test_data else None,
    }


def _file_values(file: PublishedFile) -> dict[str, Any]:
    return {
        "path": str(zoo.cache_path(file)),
        "cached": zoo.is_cached(file),
        "bytes": file.size,
        "sha256": file.sha256,
        "urls": file.urls,
    }


def _embedded(name: str) -> dict[str, Any]:
    """The same of a model that comes with the package, from the manifest and the proof beside it,
    which a float file lacks."""
    file = zoo.model_path(name)
    manifest = json.loads((file.parent / "ONNX_HUB_MANIFEST.json").read_bytes())
    (opset,) = (entry["opset_version"] for entry in manifest if entry["model"] == name)
    proof = file.with_suffix(".json")
    form = json.loads(proof.read_bytes())["trial"]["options"]["form"] if proof.is_file() else ""
    there = file.is_file()
    return {
        "name": name,
        "embedded": True,
        "path": str(file),
        "cached": there,
        "bytes": file.stat().st_size if there else None,
        "sha256": None,
        "urls": [],
        "opset": opset,
        "precision": "int8" if form else "float32",
        "form": form.upper(),
        "published_map": None,
        "map_caveat": "",
        "licence": "Apache-2.0",
        "test_data": None,
    }


def fetch(file: PublishedFile, target: Path) -> None:
    """Download it to `target`, checked by its SHA-256; a partial download is resumed.
    DownloadError: nobody has it; the message says where to put it by hand. OSError: the folder
    cannot be written."""
    from ssd34.files.web import download

    with console.download_bar() as bar:
        download(file, target, progress=console.count_on(bar, file.name, file.size))
