"""What a file should be, and who says so: a manifest, or whoever knows the file by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd34.core.contract import Port
from ssd34.data.checksum import sha256_of
from ssd34.deploy.checks import Check, check
from ssd34.deploy.manifest import MANIFEST_NAME, Stated, manifest_entry
from ssd34.deploy.ports import differences


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is stated of a model and of its archive with test data.

    Attributes:
        source: who says so, for messages.
        model: size and checksum of the ONNX file; None: nothing is stated.
        archive: of the archive.
        ports: inputs and outputs.
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

    def model_check(self, name: str, file: Path) -> Check:
        """Size and SHA-256 of the ONNX file."""
        if self.model is None:
            return Check(name, False if self.required else None, self.lacking)
        return check(name, *self._differences(file, self.model))

    def archive_check(self, file: Path) -> Check:
        """Size and SHA-256 of the archive."""
        if self.archive is not None:
            return check("archive", *self._differences(file, self.archive))
        if self.model is not None:
            return check("archive", [f"{self.source} states nothing of the archive"], "")
        return Check("archive", False if self.required else None, self.lacking)

    def ports_check(self, inputs: list[Port], outputs: list[Port]) -> Check:
        """Inputs and outputs of the graph."""
        if self.ports is None:
            return Check("manifest ports", None, self.lacking)
        unlike = differences("input", inputs, self.ports[0])
        unlike += differences("output", outputs, self.ports[1])
        return check("manifest ports", unlike, "as the manifest says")

    def _differences(self, file: Path, stated: Stated) -> tuple[list[str], str]:
        size = file.stat().st_size
        sha256 = sha256_of(file)
        problems = []
        if size != stated.size:
            problems.append(f"{size} bytes, {self.source} says {stated.size}")
        if sha256 != stated.sha256:
            problems.append(f"SHA-256 is {sha256}, {self.source} says {stated.sha256}")
        if problems and self.remedy:
            problems.append(self.remedy)
        return problems, f"{size} bytes, SHA-256 {sha256}"


def by_manifest(file: Path, manifest: Path | None) -> Expected:
    """What a manifest says of a file.

    Args:
        file: ONNX file or archive.
        manifest: it has to know the file; None: one that lies beside it, if there is one.

    Raises:
        ModelError: a broken manifest.
    """
    beside = file.parent / MANIFEST_NAME
    source = manifest or (beside if beside.is_file() else None)
    if source is None:
        nothing = f"no manifest was given, and no {MANIFEST_NAME} lies beside the file"
        return Expected(lacking=nothing)
    entry = manifest_entry(source, file.name)
    if entry is None:
        nothing = f"{source} has no entry for {file.name}"
        return Expected(lacking=nothing, required=manifest is not None)
    ports = (entry.inputs, entry.outputs)
    return Expected(model=entry.model, archive=entry.archive, ports=ports)
