"""A model repository as Triton and KServe read it: configuration, classes, the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ssd34.core.contract import DETECTION_OUTPUTS, RAW_OUTPUTS
from ssd34.core.labels import LabelSet
from ssd34.errors import ModelError
from ssd34.files.atomic import write_text, written_whole
from ssd34.runtime.session import Session

REPOSITORY = "triton"
"""The folder of the models' folders, in that of a package."""

MAX_BATCH = 8
"""Most pictures in one run, where the file takes any number; `ssd34 serve` has the same default."""

BACKGROUND = "background"
"""The first line of the classes, so that line and label have the same number, from 0."""

_TYPES = {"float": "TYPE_FP32", "uint8": "TYPE_UINT8", "int64": "TYPE_INT64"}


def write_repository(model: Path, config: str, labels: LabelSet, folder: Path) -> Path:
    """Write ``1/model.onnx``, ``labels.txt`` and ``config.pbtxt``, which is returned, into the
    model's `folder`; the one above it is the repository. OSError: something cannot be written."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "1" / "model.onnx") as file:
        shutil.copyfile(model, file)
    lines = (f"{' '.join(name.split())}\n" for name in (BACKGROUND, *labels.names))
    write_text(folder / "labels.txt", "".join(lines))
    write_text(folder / "config.pbtxt", config)
    return folder / "config.pbtxt"


def render_config(name: str, session: Session) -> str:
    """Triton's configuration of a model whose folder has that `name`: a ModelConfig in protobuf's
    text format. ModelError: an output does not say how many dimensions it has."""
    ports = {port.name: port for port in session.engine.outputs}
    inputs = session.engine.inputs
    outputs = [ports[name] for name in (RAW_OUTPUTS if session.raw else DETECTION_OUTPUTS)]
    classes = "conf" if session.raw else "labels"
    sizes = {}
    for port in (*inputs, *outputs):
        if port.sizes is None:
            raise ModelError(
                f"{port}: Triton has to be told how many dimensions it has; export the file with "
                "ssd34 export"
            )
        sizes[port.name] = [-1 if size is None else size for size in port.sizes]
    # With a batch size Triton adds the first dimension itself, and may fill it with requests.
    batches = all(size[0] == -1 for size in sizes.values())
    lines = [
        f"name: {json.dumps(name, ensure_ascii=False)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batches else 0}",
    ]
    for kind, every in (("input", inputs), ("output", outputs)):
        for port in every:
            dimensions = ", ".join(map(str, sizes[port.name][batches:]))
            element = port.type.removeprefix("tensor(").removesuffix(")")
            lines += [
                f"{kind} {{",
                f"  name: {json.dumps(port.name, ensure_ascii=False)}",
                f"  data_type: {_TYPES[element]}",
                f"  dims: [ {dimensions} ]",
                *(['  label_filename: "labels.txt"'] if port.name == classes else []),
                "}",
            ]
    if batches:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"
