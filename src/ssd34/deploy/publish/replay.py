"""One set of test data replayed: names, then shapes, then types, then values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssd34.core.contract import (
    DETECTION_OUTPUTS,
    Port,
    find_value_faults,
    fits,
)
from ssd34.core.postprocess import Picked, Policy
from ssd34.core.spec import ModelSpec
from ssd34.deploy.publish.compare_outputs import (
    OutputComparison,
    Tolerance,
    compare_detections,
    compare_raw,
)
from ssd34.deploy.publish.manifest import FileCheck, check, not_run
from ssd34.deploy.publish.reference_data import NamedTensor, ReferenceData, read_test_data
from ssd34.errors import ModelError
from ssd34.runtime.onnxruntime_engine import open_onnx, session_options
from ssd34.text import counted, one_line

Arrays = dict[str, NDArray[Any]]


def prepare_run(model: bytes, *, threads: int) -> Callable[[Arrays], Arrays]:
    """What runs an ONNX file's contents: from inputs by name to all outputs by name. Errors are
    ONNX Runtime's own."""
    options = session_options(threads)
    options.log_severity_level = 4
    session = open_onnx(model, options)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@dataclass(frozen=True, kw_only=True)
class Replayer:
    """A loaded model and what counts as the same result.

    Attributes:
        run: as of `prepare_run`.
        policy: of the file's own tail.
    """

    run: Callable[[Arrays], Arrays]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    spec: ModelSpec
    tolerance: Tolerance
    policy: Policy


def replay(folder: Path, replayer: Replayer) -> list[FileCheck]:
    """Check a folder of test data. What follows a failed check is not run."""
    names = [f"{folder.name} {what}" for what in ("names", "shapes", "types", "values")]
    try:
        data = read_test_data(folder)
    except ModelError as error:
        return [check(f"{folder.name} files", [str(error)], ""), *not_run(names, "broken files")]
    steps = (_names, _shapes, _types, _values)
    checks: list[FileCheck] = []
    for name, step in zip(names, steps, strict=True):
        checks.append(check(name, *step(data, replayer)))
        if not checks[-1].passed:
            return [*checks, *not_run(names[len(checks) :], f"{name.split()[-1]} failed")]
    return checks


def _pairs(data: ReferenceData, replayer: Replayer) -> list[tuple[str, NamedTensor, Port]]:
    """File name, tensor and port of everything; the numbers of both are equal by then."""
    return [
        (f"{kind}_{number}.pb", tensor, port)
        for kind, tensors, ports in (
            ("input", data.inputs, replayer.inputs),
            ("output", data.outputs, replayer.outputs),
        )
        for number, (tensor, port) in enumerate(zip(tensors, ports, strict=True))
    ]


def _names(data: ReferenceData, replayer: Replayer) -> tuple[list[str], str]:
    """A file's number is its place in the graph. Files without a name inside are good, too."""
    problems: list[str] = []
    for kind, tensors, ports in (
        ("input", data.inputs, replayer.inputs),
        ("output", data.outputs, replayer.outputs),
    ):
        for number in range(max(len(tensors), len(ports))):
            file = f"{kind}_{number}.pb"
            if number >= len(tensors):
                problems.append(f"{file}: missing, for the graph's {kind} {ports[number].name}")
            elif number >= len(ports):
                problems.append(f"{file}: the graph has only {counted(len(ports), kind)}")
            elif tensors[number].name not in ("", ports[number].name):
                problems.append(
                    f"{file}: is named {tensors[number].name}, the graph's {kind} {number} is "
                    f"{ports[number].name}"
                )
    return problems, ", ".join(port.name for port in (*replayer.inputs, *replayer.outputs))


def _shapes(data: ReferenceData, replayer: Replayer) -> tuple[list[str], str]:
    problems: list[str] = []
    seen: dict[str, tuple[int, str]] = {}
    for file, tensor, port in _pairs(data, replayer):
        shape = tensor.values.shape
        if port.shape is None or port.sizes is None:
            continue
        if not fits(shape, port.sizes):
            problems.append(f"{file}: has shape {list(shape)}, the graph's {port}")
            continue
        for size, name in zip(shape, port.shape, strict=True):
            if isinstance(name, str) and seen.setdefault(name, (size, file))[0] != size:
                before, other = seen[name]
                problems.append(f"{file}: {name} is {size}, but {before} in {other}")
    shapes = [str(list(tensor.values.shape)) for _, tensor, _ in _pairs(data, replayer)]
    return problems, ", ".join(shapes)


def _types(data: ReferenceData, replayer: Replayer) -> tuple[list[str], str]:
    pairs = _pairs(data, replayer)
    problems = [
        f"{file}: holds {tensor.type}, the graph's {port.name} is {port.type}"
        for file, tensor, port in pairs
        if tensor.type != port.type
    ]
    return problems, ", ".join(tensor.type for _, tensor, _ in pairs)


def _values(data: ReferenceData, replayer: Replayer) -> tuple[list[str], str]:
    inputs = {p.name: t.values for p, t in zip(replayer.inputs, data.inputs, strict=True)}
    (image,) = inputs.values()
    recorded = {p.name: t.values for p, t in zip(replayer.outputs, data.outputs, strict=True)}
    try:
        replayed = replayer.run(inputs)
    except Exception as error:  # the library has no common base of its own
        return [f"the network cannot be run ({one_line(error)})"], ""
    faults = [
        f"{whose}: {fault}"
        for whose, outputs in (("recorded", recorded), ("computed", replayed))
        for fault in find_value_faults(outputs, pictures=len(image), spec=replayer.spec)
    ]
    if faults:
        return faults, ""
    comparisons: list[OutputComparison] = []
    if set(DETECTION_OUTPUTS) <= set(recorded):
        comparisons += _compare_pictures(recorded, replayed, replayer)
    comparisons += [
        compare_raw(name, recorded[name], replayed[name], tolerance=replayer.tolerance)
        for name in recorded
        if not (name in DETECTION_OUTPUTS and set(DETECTION_OUTPUTS) <= set(recorded))
    ]
    problems = [line for comparison in comparisons for line in comparison.mismatches]
    summary = "; ".join(comparison.summary for comparison in comparisons)
    return problems, f"{replayer.tolerance.name}: {summary}"


def _compare_pictures(
    recorded: Arrays, replayed: Arrays, replayer: Replayer
) -> list[OutputComparison]:
    """One comparison for each picture."""
    ours, theirs = _pictures(recorded), _pictures(replayed)
    comparisons = []
    for number, (was, now) in enumerate(zip(ours, theirs, strict=True)):
        found = compare_detections(
            was, now, tolerance=replayer.tolerance, policy=replayer.policy
        )  # fmt: skip
        before = f"picture {number}: " if len(ours) > 1 else ""
        comparisons.append(
            OutputComparison(
                tuple(f"{before}{line}" for line in found.mismatches), f"{before}{found.summary}"
            )
        )
    return comparisons


def _pictures(outputs: Arrays) -> list[Picked]:
    """Detections by picture; what fills the list up, with score 0, is left out."""
    boxes, labels, scores = (outputs[name] for name in DETECTION_OUTPUTS)
    return [
        Picked(boxes[k][scores[k] > 0], labels[k][scores[k] > 0], scores[k][scores[k] > 0])
        for k in range(len(scores))
    ]
