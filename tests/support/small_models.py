"""Detectors of a few bytes that find the same in every picture, and what is published with them."""

from __future__ import annotations

import copy
import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ssd34.core.labels import LabelSet
from ssd34.core.spec import ModelSpec
from tests.conftest import TINY_LABELS, tiny_spec

Arrays = dict[str, NDArray[Any]]

SET = "test_data_set_0"
FOUND: Arrays = {
    "bboxes": np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]]], np.float32),
    "labels": np.array([[1, 2, 1]]),
    "scores": np.array([[0.9, 0.8, 0.6]], np.float32),
}


def metadata_of(spec: ModelSpec, labels: LabelSet) -> dict[str, str]:
    return {"ssd34.spec": json.dumps(spec.to_dict()), "ssd34.labels": json.dumps(labels.to_dict())}


METADATA = metadata_of(tiny_spec(), TINY_LABELS)


def raw_outputs(spec: ModelSpec) -> Arrays:
    """Zeros in the shapes of a network's raw outputs."""
    boxes = spec.num_default_boxes
    return {
        "loc": np.zeros((1, 4, boxes), np.float32),
        "conf": np.zeros((1, spec.num_channels, boxes), np.float32),
    }


def small_model(
    outputs: Mapping[str, NDArray[Any]] = FOUND,
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    metadata: Mapping[str, str] = METADATA,
    kind: int = TensorProto.FLOAT,
    free: bool = False,
) -> ModelProto:
    """Constant outputs, whose second dimension may be declared free."""
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
        for name, values in outputs.items()
    ]
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(values.dtype),
            ["n" if free and axis == 1 else size for axis, size in enumerate(values.shape)],
        )
        for name, values in outputs.items()
    ]  # fmt: skip
    images = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, shape in ({"image": (1, 3, 64, 64)} if inputs is None else inputs).items()
    ]
    graph = helper.make_graph(constants, "small", images, ports)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    helper.set_model_props(model, dict(metadata))
    return model


def write_small_model(path: Path, *arguments: Any, **options: Any) -> Path:
    """Write what `small_model` makes."""
    path.write_bytes(small_model(*arguments, **options).SerializeToString())
    return path


def save_tensor(path: Path, name: str, values: ArrayLike) -> None:
    path.write_bytes(numpy_helper.from_array(np.asarray(values), name).SerializeToString())


def save_data(folder: Path, image: ArrayLike, outputs: Mapping[str, ArrayLike]) -> None:
    """Test data beside a model, written with onnx's own helpers."""
    (folder / SET).mkdir()
    save_tensor(folder / SET / "input_0.pb", "image", image)
    for number, (name, values) in enumerate(outputs.items()):
        save_tensor(folder / SET / f"output_{number}.pb", name, values)


def small_folder(folder: Path, outputs: Mapping[str, NDArray[Any]] = FOUND) -> Path:
    """A small model with test data that fits."""
    folder.mkdir(exist_ok=True)
    write_small_model(folder / "small.onnx", outputs, free=True)
    save_data(folder, np.zeros((1, 3, 64, 64), np.float32), outputs)
    return folder


PORTS = {
    "inputs": [{"name": "image", "shape": [1, 3, 64, 64], "type": "tensor(float)"}],
    "outputs": [
        {"name": "bboxes", "shape": [1, "n", 4], "type": "tensor(float)"},
        {"name": "labels", "shape": [1, "n"], "type": "tensor(int64)"},
        {"name": "scores", "shape": [1, "n"], "type": "tensor(float)"},
    ],
}
"""Of `small_folder`'s model, as a model zoo's manifest has them."""


def stated(path: Path) -> tuple[str, int]:
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size


def manifest_of(model: Path, archive: Path | None = None) -> list[dict[str, Any]]:
    """A zoo's manifest: another model's entry, and this one's."""
    sha, size = stated(model)
    metadata: dict[str, Any] = {
        "model_sha": sha, "model_bytes": size, "tags": ["vision"],
        "io_ports": copy.deepcopy(PORTS),
    }  # fmt: skip
    if archive:
        sha, size = stated(archive)
        metadata |= {
            "model_with_data_path": f"vision/ssd/model/{archive.name}",
            "model_with_data_sha": sha,
            "model_with_data_bytes": size,
        }
    other = {"model": "other", "model_path": "vision/other.onnx", "metadata": {}}
    entry = {"model": "SSD", "model_path": f"vision/ssd/model/{model.name}", "metadata": metadata}
    return [other, entry]


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    return archive
