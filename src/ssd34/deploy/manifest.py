"""What a model zoo's manifest says of a file.

``ONNX_HUB_MANIFEST.json`` is a list with an entry for each model: ``model_path`` and, under
``metadata``, ``model_sha``, ``model_bytes``, ``io_ports`` and the same for the archive with test
data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.contract import Port
from ssd34.data.strict import parse_json
from ssd34.errors import ModelError

MANIFEST_NAME = "ONNX_HUB_MANIFEST.json"
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Stated:
    """Size in bytes and SHA-256 (64 lower-case hexadecimal digits) that a manifest states."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ManifestEntry:
    """One model of a manifest.

    Attributes:
        model: of the ONNX file.
        archive: of the tarball with test data; None: there is none.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
    """

    model: Stated
    archive: Stated | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Listed:
    """The files of an entry, without their folders.

    Attributes:
        model: the ONNX file.
        archive: the tarball with test data; None: there is none.
        here: the entry names no folder: they belong beside the manifest.
    """

    model: str
    archive: str | None
    here: bool


def manifest_entry(manifest: Path, file_name: str) -> ManifestEntry | None:
    """The entry whose model, or archive with test data, has that file name; None: there is none.

    Raises:
        ModelError: not a manifest, several such entries, or a broken one.
        OSError: the manifest cannot be read.
    """
    found = [entry for entry in _entries(manifest) if file_name in _file_names(entry)]
    if len(found) > 1:
        raise ModelError(f"{manifest}: has {len(found)} entries for {file_name}, expected one")
    if not found:
        return None
    try:
        return _entry(found[0])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{manifest}: broken entry for {file_name}: {reason}") from None


def listed_files(manifest: Path) -> list[Listed]:
    """The files of every entry that names one.

    Raises:
        ModelError: not a manifest.
        OSError: the manifest cannot be read.
    """
    listed = []
    for entry in _entries(manifest):
        path, metadata = entry.get("model_path"), entry.get("metadata")
        archive = metadata.get("model_with_data_path") if isinstance(metadata, dict) else None
        if isinstance(path, str):
            archive = _name(archive) if isinstance(archive, str) else None
            listed.append(Listed(_name(path), archive, here="/" not in path))
    return listed


def _entries(manifest: Path) -> list[dict[str, Any]]:
    if manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ModelError(f"{manifest}: too large for a manifest, at most {MAX_MANIFEST_BYTES}")
    try:
        entries = parse_json(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{manifest}: not JSON ({error})") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelError(f"{manifest}: expected a list of entries, as a model zoo's manifest is")
    return entries


def _file_names(entry: dict[str, Any]) -> set[str]:
    metadata = entry.get("metadata")
    paths = [entry.get("model_path")]
    if isinstance(metadata, dict):
        paths.append(metadata.get("model_with_data_path"))
    return {_name(path) for path in paths if isinstance(path, str)}


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _entry(values: dict[str, Any]) -> ManifestEntry:
    metadata = values["metadata"]
    archive = None
    if "model_with_data_path" in metadata:
        archive = _stated(metadata, "model_with_data")
    ports = metadata["io_ports"]
    return ManifestEntry(
        model=_stated(metadata, "model"),
        archive=archive,
        inputs=tuple(_port(port) for port in ports["inputs"]),
        outputs=tuple(_port(port) for port in ports["outputs"]),
    )


def _stated(metadata: dict[str, Any], prefix: str) -> Stated:
    size, digest = metadata[f"{prefix}_bytes"], metadata[f"{prefix}_sha"]
    if not isinstance(size, int):
        raise TypeError(f"{prefix}_bytes: expected a number, got {size!r}")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{prefix}_sha: expected 64 hexadecimal digits, got {digest!r}")
    return Stated(size, digest.lower())


def _port(values: dict[str, Any]) -> Port:
    name, kind, shape = values["name"], values["type"], values["shape"]
    known = isinstance(name, str) and isinstance(kind, str) and isinstance(shape, list)
    if not known or not all(size is None or isinstance(size, int | str) for size in shape):
        raise TypeError(f"io_ports: expected name, shape and type, got {values!r}")
    return Port(name, kind, tuple(shape))
