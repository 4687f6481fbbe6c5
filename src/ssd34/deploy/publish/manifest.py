"""What a file should be, as a manifest or the catalogue says, and what checks of it found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssd34.core.contract import Port
from ssd34.errors import ModelError
from ssd34.files.atomic import compute_sha256
from ssd34.text import parse_json


@dataclass(frozen=True)
class FileCheck:
    """One thing that was looked at.

    Attributes:
        passed: None: not run.
        detail: what was measured, or one line for each mismatch, or why it was not run.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one file, in the order in which they were made."""

    file: Path
    checks: tuple[FileCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        checks = [asdict(check) for check in self.checks]
        return {"file": str(self.file), "passed": self.passed, "checks": checks}


def check(name: str, problems: Sequence[str], good: str) -> FileCheck:
    """A check that passes where there are no problems; `good` says what is well then."""
    return FileCheck(name, not problems, "\n".join(problems) or good)


def not_run(names: Sequence[str], why: str) -> list[FileCheck]:
    """Checks that were left out."""
    return [FileCheck(name, None, why) for name in names]


MANIFEST_NAME = "ONNX_HUB_MANIFEST.json"
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Stated:
    """Size in bytes and SHA-256 (64 lower-case hexadecimal digits) that a manifest states."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is stated of a model and of its archive with test data.

    Attributes:
        source: who says so, for messages.
        model: size and checksum of the ONNX file; None: nothing is stated.
        lacking: why nothing is stated.
        required: whether that is a failure.
        remedy: what to do where a file is another one.
    """

    source: str = "the manifest"
    model: Stated | None = None
    archive: Stated | None = None
    ports: tuple[tuple[Port, ...], tuple[Port, ...]] | None = None
    lacking: str = ""
    required: bool = False
    remedy: str = ""

    def model_check(self, name: str, file: Path) -> FileCheck:
        """Size and SHA-256 of the ONNX file."""
        if self.model is None:
            return FileCheck(name, False if self.required else None, self.lacking)
        return check(name, *self._differences(file, self.model))

    def archive_check(self, file: Path) -> FileCheck:
        """Size and SHA-256 of the archive."""
        if self.archive is not None:
            return check("archive", *self._differences(file, self.archive))
        if self.model is not None:
            return check("archive", [f"{self.source} states nothing of the archive"], "")
        return FileCheck("archive", False if self.required else None, self.lacking)

    def ports_check(self, inputs: list[Port], outputs: list[Port]) -> FileCheck:
        """Inputs and outputs of the graph."""
        if self.ports is None:
            return FileCheck("manifest ports", None, self.lacking)
        unlike = _unlike("input", inputs, self.ports[0])
        unlike += _unlike("output", outputs, self.ports[1])
        return check("manifest ports", unlike, "as the manifest says")

    def _differences(self, file: Path, stated: Stated) -> tuple[list[str], str]:
        size = file.stat().st_size
        sha256 = compute_sha256(file)
        problems = []
        if size != stated.size:
            problems.append(f"{size} bytes, {self.source} says {stated.size}")
        if sha256 != stated.sha256:
            problems.append(f"SHA-256 is {sha256}, {self.source} says {stated.sha256}")
        if problems and self.remedy:
            problems.append(self.remedy)
        return problems, f"{size} bytes, SHA-256 {sha256}"


def read_expected(file: Path, manifest: Path | None) -> Expected:
    """What a manifest says of an ONNX file or archive; None: one that lies beside the file, if
    there is one. A manifest that is given has to know the file. ModelError: it is broken."""
    beside = file.parent / MANIFEST_NAME
    source = manifest or (beside if beside.is_file() else None)
    if source is None:
        nothing = f"no manifest was given, and no {MANIFEST_NAME} lies beside the file"
        return Expected(lacking=nothing)
    entry = find_manifest_entry(source, file.name)
    if entry is None:
        nothing = f"{source} has no entry for {file.name}"
        return Expected(lacking=nothing, required=manifest is not None)
    return entry


def _unlike(what: str, ports: Sequence[Port], stated: Sequence[Port]) -> list[str]:
    """Where the graph's ports differ from those stated. Names of free dimensions do not count."""
    names, others = [p.name for p in ports], [p.name for p in stated]
    if names != others:
        return [f"{what}s {', '.join(names)}: the manifest says {', '.join(others) or 'none'}"]
    return [
        f"{what} {port}: the manifest says {other.form}"
        for port, other in zip(ports, stated, strict=True)
        if port.type != other.type or port.sizes != other.sizes
    ]


def find_manifest_entry(manifest: Path, file_name: str) -> Expected | None:
    """The entry whose model, or archive with test data, has that file name; None: there is none.
    ModelError: not a manifest, several such entries, or a broken one. OSError: the manifest cannot
    be read."""
    found = [
        entry
        for entry in _entries(manifest)
        if file_name in [_name(path) for path in _paths(entry) if path]
    ]
    if len(found) > 1:
        raise ModelError(f"{manifest}: has {len(found)} entries for {file_name}, expected one")
    if not found:
        return None
    try:
        return _entry(found[0])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{manifest}: broken entry for {file_name}: {reason}") from None


def list_manifest_files(manifest: Path) -> list[tuple[str, str | None, bool]]:
    """Of every entry that names a model: the file names of the model and of its archive, without
    folders, and whether the entry names no folder: they belong beside the manifest. Errors as
    `find_manifest_entry`.
    """
    return [
        (_name(model), archive and _name(archive), "/" not in model)
        for model, archive in map(_paths, _entries(manifest))
        if model
    ]


def _entries(manifest: Path) -> list[dict[str, Any]]:
    if manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ModelError(f"{manifest}: too large for a manifest, at most {MAX_MANIFEST_BYTES}")
    try:
        entries = parse_json(manifest.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ModelError(
            f"{manifest}: not JSON ({error}); expected a model zoo's manifest"
        ) from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelError(f"{manifest}: expected a list of entries, as a model zoo's manifest is")
    return entries


def _paths(entry: dict[str, Any]) -> tuple[str | None, str | None]:
    """Of the model and of the archive, as the entry has them."""
    metadata = entry.get("metadata")
    archive = metadata.get("model_with_data_path") if isinstance(metadata, dict) else None
    model = entry.get("model_path")
    return model if isinstance(model, str) else None, archive if isinstance(archive, str) else None


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _entry(values: dict[str, Any]) -> Expected:
    metadata = values["metadata"]
    archive = None
    if "model_with_data_path" in metadata:
        archive = _stated(metadata, "model_with_data")
    ports = metadata["io_ports"]
    inputs, outputs = (tuple(map(_port, ports[kind])) for kind in ("inputs", "outputs"))
    return Expected(model=_stated(metadata, "model"), archive=archive, ports=(inputs, outputs))


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
