"""Verify a published file: is it whole, is it what it says, does it compute what it should.

Neither torch nor the network that made the file is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto

from ssd34.data.checksum import sha256_of
from ssd34.deploy.archive import SUFFIXES, is_archive, unpacked
from ssd34.deploy.checks import Check, Verification, check, not_run
from ssd34.deploy.manifest import MANIFEST_NAME, ManifestEntry, Stated, manifest_entry
from ssd34.deploy.ports import contract_problems, differences, graph_ports, identity
from ssd34.deploy.replay import Arrays, Replayer, replay
from ssd34.deploy.test_data import find_test_data
from ssd34.deploy.tolerance import tail_policy, tolerance_of
from ssd34.errors import ModelError
from ssd34.runtime.onnxruntime_engine import session_options

__all__ = ["Check", "Verification", "verify"]

MAX_MODEL_BYTES = 2 * 2**30 - 1
"""What fits into a protobuf message."""


def verify(
    target: Path,
    *,
    manifest: Path | None = None,
    require_test_data: bool = False,
    threads: int = 1,
) -> Verification:
    """Check an ONNX file, a folder with one, or a tarball with one.

    Args:
        target: ``.onnx``, ``.tar.gz``, ``.tgz`` or a folder. Test data are the
            ``test_data_set_*`` folders beside the ONNX file.
        manifest: says what the file should be; None: one that lies beside it, if there is one.
        require_test_data: fail where there is none.
        threads: for the network.

    Raises:
        ModelError: there is nothing that could be verified: no ONNX file or several, an archive
            that should not be unpacked, or a broken manifest.
        OSError: something cannot be read.
    """
    if not is_archive(target) or target.is_dir():
        model = _model_in(target, shown=target) if target.is_dir() else target
        if model.suffix.lower() != ".onnx":
            raise ModelError(
                f"{target}: expected an .onnx file, a folder, or {' or '.join(SUFFIXES)}"
            )
        stated = _Stated(model, manifest)
        checks = _model_checks(model, stated, require_test_data, threads)
        return Verification(target, tuple(checks))
    stated = _Stated(target, manifest)
    checks = [stated.file_check("archive", target, archive=True)]
    try:
        with unpacked(target) as folder:
            model = _model_in(folder, shown=target)
            checks += _model_checks(model, stated, require_test_data, threads)
    except ModelError as error:
        if checks[0].passed is not False:
            raise
        # A damaged download: the checksum has told so already.
        checks.append(check("contents", [str(error)], ""))
    return Verification(target, tuple(checks))


def _model_in(folder: Path, *, shown: Path) -> Path:
    """The only ONNX file in a folder, or below it in an unpacked archive."""
    paths = folder.glob("*.onnx") if folder == shown else folder.rglob("*.onnx")
    found = sorted(p for p in paths if p.is_file() and not p.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:8]) or "none"
        raise ModelError(f"{shown}: expected one .onnx file in it, found {names}")
    return found[0]


class _Stated:
    """What a manifest states of a file."""

    def __init__(self, file: Path, manifest: Path | None) -> None:
        beside = file.parent / MANIFEST_NAME
        source = manifest or (beside if beside.is_file() else None)
        self.entry: ManifestEntry | None = None
        self.lacking = f"no manifest was given, and no {MANIFEST_NAME} lies beside the file"
        # A manifest that was asked for has to know the file.
        self.required = manifest is not None
        if source is not None:
            self.entry = manifest_entry(source, file.name)
            self.lacking = f"{source} has no entry for {file.name}"

    def file_check(self, name: str, file: Path, *, archive: bool = False) -> Check:
        """Size and SHA-256 of a file."""
        if self.entry is None:
            return Check(name, False if self.required else None, self.lacking)
        stated = self.entry.archive if archive else self.entry.model
        if stated is None:
            return check(name, ["the manifest states nothing of the archive"], "")
        return check(name, *_differences_of_file(file, stated))


def _differences_of_file(file: Path, stated: Stated) -> tuple[list[str], str]:
    size = file.stat().st_size
    sha256 = sha256_of(file)
    problems = []
    if size != stated.size:
        problems.append(f"{size} bytes, the manifest says {stated.size}")
    if sha256 != stated.sha256:
        problems.append(f"SHA-256 is {sha256}, the manifest says {stated.sha256}")
    return problems, f"{size} bytes, SHA-256 {sha256}"


def _model_checks(path: Path, stated: _Stated, require: bool, threads: int) -> list[Check]:
    checks = [stated.file_check("checksum", path)]
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: too large, expected at most {MAX_MODEL_BYTES} bytes")
    content = path.read_bytes()
    model, problems = _parsed(content)
    checks.append(check("structure", problems, "passes ONNX's full check"))
    if problems:
        names = ["ports", "manifest ports", "runtime", "test data"]
        return checks + not_run(names, "structure failed")

    inputs, outputs = graph_ports(model.graph)
    contract = check("ports", contract_problems(model), "; ".join(map(str, (*inputs, *outputs))))
    checks.append(contract)
    if stated.entry is None:
        checks.append(Check("manifest ports", None, stated.lacking))
    else:
        unlike = differences("input", inputs, stated.entry.inputs)
        unlike += differences("output", outputs, stated.entry.outputs)
        checks.append(check("manifest ports", unlike, "as the manifest says"))

    try:
        run = _runner(content, threads)
    except Exception as error:  # the library has no common base of its own
        reason = " ".join(str(error).split())[:300]
        checks.append(check("runtime", [f"ONNX Runtime cannot load it ({reason})"], ""))
        return checks + not_run(["test data"], "runtime failed")
    checks.append(check("runtime", [], f"loads in ONNX Runtime {onnxruntime.__version__}"))

    folders = find_test_data(path.parent)
    if not folders:
        nothing = f"no test_data_set_* folder beside {path.name}: nothing was computed"
        return [*checks, Check("test data", False if require else None, nothing)]
    if not contract.passed:
        return checks + not_run([folder.name for folder in folders], "ports failed")
    replayer = Replayer(
        run=run,
        inputs=inputs,
        outputs=outputs,
        num_classes=len(identity(model)[1]),
        tolerance=tolerance_of(model.graph),
        policy=tail_policy(model.graph),
    )
    return checks + [one for folder in folders for one in replay(folder, replayer)]


def _parsed(content: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """The model, and what is wrong with it by ONNX's own rules."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own error, which onnx does not pass on
        return onnx.ModelProto(), [f"not an ONNX file, or a part of one ({error})"]
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    if any(t.data_location == TensorProto.EXTERNAL for t in tensors):
        return model, ["keeps weights in other files, which its checksum does not cover"]
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # the checker's, shape inference's, and others
        return model, [" ".join(str(error).split())[:500]]
    return model, []


def _runner(content: bytes, threads: int) -> Callable[[Arrays], Arrays]:
    options = session_options(threads)
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run
