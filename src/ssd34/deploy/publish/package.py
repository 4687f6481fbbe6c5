"""A model as the ONNX Model Zoo publishes it: file, test data, manifest entry, model card."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd34.core.contract import Port
from ssd34.deploy.graph.builder import find_onnx_release
from ssd34.deploy.graph.onnx_file import read_identity, read_model, read_ports
from ssd34.deploy.publish.manifest import MANIFEST_NAME, find_manifest_entry
from ssd34.deploy.publish.measurement import KEPT, choose_measurements, read_measurements
from ssd34.deploy.publish.model_card import is_card, read_licence, render_model_card
from ssd34.deploy.publish.reference_data import write_test_data
from ssd34.deploy.publish.replay import prepare_run
from ssd34.deploy.publish.triton import REPOSITORY, render_config, write_repository
from ssd34.deploy.publish.verify import verify
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import compute_sha256, naming, write_bytes, write_json, write_text
from ssd34.runtime.session import Session
from ssd34.text import counted

MAX_NAME_BYTES = 80
"""Of a name: in a tarball's header a file's, with opset and suffix, has 100."""
_FIELDS = frozenset({"model", "model_path", "onnx_version", "opset_version", "metadata"})


@dataclass(frozen=True)
class Package:
    """What was written; of a model repository the configuration."""

    model: Path
    tarball: Path
    manifest: Path
    card: Path
    triton: Path | None = None


def package(
    model: Path,
    *,
    output: Path,
    picture: NDArray[np.uint8],
    name: str | None = None,
    measured: Sequence[Path] = (),
    replace: bool = False,
    licence: str | None = None,
    triton: bool = False,
) -> Package:
    """Write a model file with test data, its manifest entry and the model card.

    The same model, picture and measurements always give the same bytes. Other files of the same
    network in the folder keep their entries, and the card lists all of them.

    Args:
        model: an ONNX file that the runtime can run.
        output: the folder; it is made once everything is found to be well.
        picture: (H, W, 3) uint8 RGB, the input of the test data.
        name: what the files are called; None: the spec's name.
        measured: JSON files that ``ssd34 evaluate`` or ``ssd34 benchmark`` wrote. They are kept in
            the package, each in place of an older one of the same model and kind.
        replace: another model of that file name may go, with what ``triton/`` has of it, and a
            README.md that is no card of ours.
        licence: of the weights, an identifier such as ``"apache-2.0"``; None: that of the card that
            is there, else none.
        triton: also write the model into the model repository ``triton/`` in the folder.

    Raises:
        ModelError: the model cannot be run, or what was packed does not verify.
        OptionError: a measurement file, name or licence cannot be one, another model has the name,
            the README.md is somebody else's, or the folder holds files of another network.
    """
    session = Session(model)
    tensor = session.input_for(picture)
    # What it gives has to be detections, or raw outputs.
    session.compute([tensor])
    proto = read_model(model)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    stem_name = session.spec.name if name is None else name
    stem = f"{stem_name}-{opset}{_suffix(proto.graph)}"
    # Fail before anything is written, and write everything before anything takes its place.
    if not re.fullmatch(r"[\w+-][\w.+-]*", stem_name):
        raise OptionError(
            f"name {stem_name!r}: expected the beginning of a file name, such as mine; it may have "
            "letters, digits, '-', '_', '.' and '+'"
        )
    if (size := len(stem_name.encode())) > MAX_NAME_BYTES:
        raise OptionError(
            f"name {stem_name[:20]!r}...: expected at most {MAX_NAME_BYTES} bytes, got {size}; "
            "give a shorter --name"
        )
    if licence is not None and not re.fullmatch(r"[\w.+-]+", licence):
        raise OptionError(f"licence {licence!r}: expected an identifier, such as apache-2.0")
    keep = choose_measurements(measured)
    config = render_config(stem, session) if triton else None
    entries = _other_entries(output / MANIFEST_NAME, f"{stem}.onnx")
    for entry in entries:
        _check_same_network(output / entry["model_path"], session)
    target = output / f"{stem}.onnx"
    another = target.is_file() and compute_sha256(target) != compute_sha256(model)
    if another and not replace:
        raise OptionError(
            f"{target}: is another model; give this one another --name, or --replace that one"
        )
    readme = output / "README.md"
    if not replace and readme.exists() and not is_card(readme):
        raise OptionError(
            f"{readme}: expected a model card that ssd34 package wrote, got another text, which it "
            "would replace; move it away, package into another folder, or give --replace"
        )
    with (
        tempfile.TemporaryDirectory(prefix=f".{stem}.", dir=_existing(output)) as work,
        naming(output, part=Path(work)),
    ):
        staged = Path(work) / stem
        staged.mkdir()
        shutil.copyfile(model, staged / f"{stem}.onnx")
        image = {proto.graph.input[0].name: tensor}
        run = prepare_run(
            model.read_bytes(), threads=1
        )  # sums in one order, whatever machine packs
        write_test_data(staged / "test_data_set_0", image, run(image))
        # Beside no older manifest, which would speak of an older file.
        packed = Path(work) / f"{stem}.tar.gz"
        _pack(staged, packed)
        _check(packed)
        entries.append(_entry(staged / target.name, packed, proto, opset, stem_name))
        entries.sort(key=lambda entry: str(entry["model_path"]))
        rows = [
            (e, read_measurements(output / KEPT, e["metadata"]["model_sha"], newer=keep))
            for e in entries
        ]
        card = render_model_card(
            rows, spec=session.spec, labels=session.labels, licence=licence or read_licence(readme)
        )

        output.mkdir(parents=True, exist_ok=True)
        tarball = packed.replace(output / packed.name)
        (staged / target.name).replace(target)
    # Measurements travel with the package, so that the card can be made again from them.
    for kept_name, numbers in keep.items():
        (output / KEPT).mkdir(exist_ok=True)
        write_bytes(output / KEPT / kept_name, numbers)
    write_json(output / MANIFEST_NAME, entries)
    write_text(readme, card)
    written = None
    repository = output / REPOSITORY / stem
    if config is not None:
        written = write_repository(target, config, session.labels, repository)
    elif another:
        shutil.rmtree(repository, ignore_errors=True)
    return Package(target, tarball, output / MANIFEST_NAME, readme, written)


def _check_same_network(other: Path, session: Session) -> None:
    """The model card describes one network; files of another one need a folder of their own."""
    if not other.is_file():
        raise ModelError(
            f"{other}: the manifest names it, but it is gone; put it back, or "
            "package into an empty folder"
        )
    try:
        spec, labels = read_identity(read_model(other))
    except ModelError as error:
        raise ModelError(f"the manifest names a file that is broken: {error}") from None
    if spec != session.spec or labels != session.labels:
        what = "another network" if spec != session.spec else "other classes"
        raise OptionError(
            f"{other}: is of {what} ({spec.name}, {counted(len(labels), 'class')}); package "
            f"{session.spec.name} with {counted(len(session.labels), 'class')} into another folder"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there: on the same file system."""
    folder = folder.absolute()
    return folder if folder.is_dir() else _existing(folder.parent)


def _suffix(graph: onnx.GraphProto) -> str:
    operators = {node.op_type for node in graph.node}
    if "QLinearConv" in operators:
        return "-int8"
    return "-qdq" if {"QuantizeLinear", "DequantizeLinear"} & operators else ""


def _check(target: Path) -> None:
    verification = verify(target, require_test_data=True)
    if not verification.passed:
        failed = next(check for check in verification.checks if check.passed is False)
        first, *others = failed.detail.splitlines()
        more = f", and {len(others)} more" if others else ""
        raise ModelError(f"not packaged: {failed.name}: {first}{more}")


def _pack(folder: Path, tarball: Path) -> None:
    """A tar.gz without times, owners or the order of the file system."""
    with (
        tarball.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            member = archive.gettarinfo(path, str(path.relative_to(folder.parent)))
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                archive.addfile(member)
            else:
                with path.open("rb") as file:
                    archive.addfile(member, file)


def _entry(
    model: Path, tarball: Path, proto: onnx.ModelProto, opset: int, name: str
) -> dict[str, Any]:
    inputs, outputs = read_ports(proto.graph)
    return {
        "model": name,
        "model_path": model.name,
        "onnx_version": find_onnx_release(opset),
        "opset_version": opset,
        "metadata": {
            "model_sha": compute_sha256(model),
            "model_bytes": model.stat().st_size,
            "tags": ["vision", "object detection", "ssd"],
            "io_ports": {
                "inputs": [_port(port) for port in inputs],
                "outputs": [_port(port) for port in outputs],
            },
            "model_with_data_path": tarball.name,
            "model_with_data_sha": compute_sha256(tarball),
            "model_with_data_bytes": tarball.stat().st_size,
        },
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": list(port.shape or ()), "type": port.type}


def _other_entries(manifest: Path, file_name: str) -> list[dict[str, Any]]:
    """The entries of a manifest without an older one of the same file; none where it is missing."""
    if not manifest.is_file():
        return []
    find_manifest_entry(manifest, file_name)  # an error says what is wrong with a broken one
    entries: list[dict[str, Any]] = json.loads(manifest.read_bytes())
    others = [entry for entry in entries if entry.get("model_path") != file_name]
    for entry in others:
        path = str(entry.get("model_path"))
        stated = find_manifest_entry(manifest, path.rsplit("/", 1)[-1])
        if stated is None or stated.archive is None or _FIELDS - set(entry):
            raise ModelError(f"{manifest}: the entry of {path} is not one of ours; move it away")
    return others
