"""Verify a published file: is it whole, is it what it says, does it compute what it should."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx

from ssd34.core.contract import find_port_faults
from ssd34.core.external_data import check_weights_inside
from ssd34.deploy.graph.builder import MAX_MODEL_BYTES
from ssd34.deploy.graph.onnx_file import read_identity, read_metadata, read_ports, tidy
from ssd34.deploy.graph.tail import read_tail_policy
from ssd34.deploy.publish.compare_outputs import choose_tolerance
from ssd34.deploy.publish.manifest import (
    MANIFEST_NAME,
    Expected,
    FileCheck,
    Verification,
    check,
    list_manifest_files,
    not_run,
    read_expected,
)
from ssd34.deploy.publish.reference_data import find_test_data
from ssd34.deploy.publish.replay import Replayer, prepare_run, replay
from ssd34.errors import ModelError
from ssd34.files.archive import SUFFIXES, DamagedArchiveError, is_archive, unpacked
from ssd34.runtime.onnxruntime_engine import onnxruntime
from ssd34.text import one_line


def verify(
    target: Path, *, manifest: Path | None = None, require_test_data: bool = False, threads: int = 1
) -> Verification:
    """Check an ONNX file, a folder with one, or a tarball with one.

    Args:
        target: ``.onnx``, ``.tar.gz``, ``.tgz`` or a folder. Test data are the ``test_data_set_*``
            folders beside the ONNX file; where they are required, to have none is a failure.
        manifest: says what the file should be; None: one that lies beside it, if there is one.

    Raises:
        ModelError: there is nothing that could be verified: no ONNX file or several, an archive
            that should not be unpacked, or a broken manifest.
        OSError: something cannot be read.
    """
    how = _How(require_test_data, threads)
    if is_archive(target) and not target.is_dir():
        expected = read_expected(target, manifest)
        return Verification(target, tuple(_archive_checks(target, expected, expected, how)))
    model = _model_in(target, shown=target) if target.is_dir() else target
    if model.suffix.lower() != ".onnx":
        raise ModelError(f"{target}: expected an .onnx file, a folder, or {' or '.join(SUFFIXES)}")
    return Verification(target, tuple(_model_checks(model, read_expected(model, manifest), how)))


def verify_folder(
    folder: Path, *, manifest: Path | None = None, require_test_data: bool = False, threads: int = 1
) -> list[Verification]:
    """Check everything in a folder: what its manifest names and what else lies there; see `verify`.

    A file and its archive are one: the archive's test data are replayed, and the file beside it has
    to be the one that both are stated to be. Without manifest there has to be one ONNX file; a
    folder without any is searched one level down, as of an archive that was unpacked there.
    """
    how = _How(require_test_data, threads)
    one = partial(verify, manifest=manifest, require_test_data=require_test_data, threads=threads)
    own = folder / MANIFEST_NAME if manifest is None else manifest
    found = []
    if own.is_file() and own.parent.resolve() == folder.resolve():
        known = set()
        for name, packed, here in list_manifest_files(own):
            model, archive = folder / name, folder / packed if packed else None
            known.add(model)
            if here or model.is_file():
                missing = [path for path in (model, archive) if path and not path.is_file()]
                checks = [
                    FileCheck(path.name, False, "the manifest names it; missing")
                    for path in missing
                ]
                if not missing:
                    expected = read_expected(model, own)
                    # The file in the archive is the same: that is checked once, in the archive.
                    checks = _pair_checks(model, archive, expected, expected, how)
                found.append(Verification(model, tuple(checks)))
        found += [one(file) for file in _models(folder) if file not in known]
    elif _models(folder):
        found = [one(folder)]
    if found:
        return found
    below = sorted(path for path in folder.iterdir() if path.is_dir() and _models(path))
    if not below:
        raise ModelError(f"{folder}: expected an .onnx file in it or one level down, found none")
    return [one(path) for path in below]


def verify_against(
    model: Path,
    archive: Path | None,
    expected: Expected,
    *,
    require_test_data: bool = False,
    threads: int = 1,
) -> Verification:
    """Check an ONNX file that has to be a known one, and replay the test data of its archive, if
    that is here; see `verify`."""
    # Nothing is known of the file in the archive but the archive's own checksum.
    inner = Expected(lacking="the archive's checksum covers it")
    how = _How(require_test_data, threads)
    return Verification(model, tuple(_pair_checks(model, archive, expected, inner, how)))


class _How(NamedTuple):
    require_test_data: bool
    threads: int


def _pair_checks(
    model: Path, archive: Path | None, expected: Expected, inner: Expected, how: _How
) -> list[FileCheck]:
    """A file and its archive; `inner`: what is known of the file in that."""
    if archive is None:
        return _model_checks(model, expected, how)
    file = expected.model_check("file", model)
    return [file, *_archive_checks(archive, expected, inner, how)]


def _archive_checks(
    archive: Path, expected: Expected, inner: Expected, how: _How
) -> list[FileCheck]:
    checks = [expected.archive_check(archive)]
    try:
        with unpacked(archive) as folder:
            model = _model_in(folder, shown=archive)
            return checks + _model_checks(model, inner, how)
    except DamagedArchiveError as error:
        checks.append(check("contents", [f"{error}; fetch or make it again"], ""))
    except ModelError as error:
        if checks[0].passed is not False:
            raise
        # Another file: the checksum has told so already.
        checks.append(check("contents", [str(error)], ""))
    return checks


def _model_in(folder: Path, *, shown: Path) -> Path:
    """The only ONNX file in a folder, or below it in an unpacked archive."""
    found = _models(folder, "*.onnx" if folder == shown else "**/*.onnx")
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:8]) or "none"
        raise ModelError(f"{shown}: expected one .onnx file in it, found {names}")
    return found[0]


def _models(folder: Path, pattern: str = "*.onnx") -> list[Path]:
    return sorted(p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith("."))


def _model_checks(path: Path, expected: Expected, how: _How) -> list[FileCheck]:
    checks = [expected.model_check("checksum", path)]
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: too large, expected at most {MAX_MODEL_BYTES} bytes")
    content = path.read_bytes()
    model, problems = _parsed(path, content)
    checks.append(check("structure", problems, "passes ONNX's full check"))
    if problems:
        names = ["ports", "manifest ports", "runtime", "test data"]
        return checks + not_run(names, "structure failed")

    tidy(model)
    inputs, outputs = read_ports(model.graph)
    faults = find_port_faults(inputs, outputs, read_metadata(model))
    contract = check("ports", faults, "; ".join(map(str, (*inputs, *outputs))))
    checks.append(contract)
    checks.append(expected.ports_check(inputs, outputs))

    try:
        run = prepare_run(content, threads=how.threads)
    except Exception as error:  # the library has no common base of its own
        reason = one_line(error, 300)
        checks.append(check("runtime", [f"ONNX Runtime cannot load it ({reason})"], ""))
        return checks + not_run(["test data"], "runtime failed")
    checks.append(check("runtime", [], f"loads in ONNX Runtime {onnxruntime.__version__}"))

    folders = find_test_data(path.parent)
    if not folders:
        nothing = f"no test_data_set_* folder beside {path.name}: nothing was computed"
        return [*checks, FileCheck("test data", False if how.require_test_data else None, nothing)]
    if not contract.passed:
        return checks + not_run([folder.name for folder in folders], "ports failed")
    replayer = Replayer(
        run=run, inputs=inputs, outputs=outputs, spec=read_identity(model)[0],
        tolerance=choose_tolerance(model.graph), policy=read_tail_policy(model.graph),
    )  # fmt: skip
    return checks + [one for folder in folders for one in replay(folder, replayer)]


def _parsed(path: Path, content: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """The model, and what is wrong with it by ONNX's own rules."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own error, which onnx does not pass on
        return onnx.ModelProto(), [f"not an ONNX file, or a part of one ({error})"]
    try:
        check_weights_inside(path)
    except ModelError as error:
        return model, [str(error)]
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # the checker's, shape inference's, and others
        return model, [one_line(error, 500)]
    return model, []
