"""Test data, a tested input and its outputs, as the ONNX Model Zoo keeps them: a folder
``test_data_set_0`` holds ``input_0.pb``, ``output_0.pb`` and so on, each one ONNX TensorProto; the
number is the place among the graph's inputs or outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import write_bytes
from ssd34.text import one_line

MAX_TENSOR_BYTES = 256 * 2**20
"""Largest tensor file; one picture of 1200 pixels takes 17 million."""

_TENSOR_FILE = re.compile(r"(input|output)_(0|[1-9]\d{0,3})\.pb", re.ASCII)
_SET = re.compile(r"test_data_set_.+")


@dataclass(frozen=True, eq=False)
class NamedTensor:
    """One tensor file: the name in it, empty where it has none, its type as ONNX Runtime writes it,
    for example ``"tensor(float)"``, and its array."""

    name: str
    type: str
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class ReferenceData:
    """One folder of test data: tensors in the order of their numbers."""

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]


def write_test_data(
    folder: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> None:
    """Write the tensor files of one test into a folder, which is made; others in it are removed.
    The same arrays, in the order of the graph's ports, always give the same bytes.

    Raises:
        OptionError: no outputs, an array too large, or of a type that ONNX does not have.
        OSError: the folder cannot be written.
    """
    if not outputs:
        raise OptionError(f"{folder}: expected at least one output to write, got none")
    files = {
        f"{kind}_{number}.pb": _tensor_bytes(name, values)
        for kind, arrays in (("input", inputs), ("output", outputs))
        for number, (name, values) in enumerate(arrays.items())
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _TENSOR_FILE.fullmatch(old.name) and old.name not in files:
            old.unlink()
    for name, content in files.items():
        write_bytes(folder / name, content)


def _tensor_bytes(name: str, values: NDArray[Any]) -> bytes:
    if values.nbytes > MAX_TENSOR_BYTES:
        raise OptionError(
            f"{name}: {values.nbytes} bytes, expected at most {MAX_TENSOR_BYTES} in a tensor file"
        )
    try:
        tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
    except (KeyError, TypeError, ValueError, NotImplementedError):
        raise OptionError(f"{name}: ONNX tensors cannot hold {values.dtype}") from None
    content: bytes = tensor.SerializeToString(deterministic=True)
    return content


def find_test_data(folder: Path) -> list[Path]:
    """The ``test_data_set_*`` folders in a folder, in the order of their numbers."""
    found = [path for path in folder.iterdir() if _SET.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read_test_data(folder: Path) -> ReferenceData:
    """Read the tensor files of one test; errors as `read_tensor`."""
    numbers: dict[str, list[int]] = {"input": [], "output": []}
    for path in folder.iterdir():
        if match := _TENSOR_FILE.fullmatch(path.name):
            numbers[match[1]].append(int(match[2]))
    if not numbers["output"]:
        raise ModelError("output_0.pb: missing; expected at least one output_*.pb")
    tensors: dict[str, tuple[NamedTensor, ...]] = {}
    for kind, found in numbers.items():
        for number in range(len(found)):
            if number not in found:
                raise ModelError(f"{kind}_{number}.pb: missing, but {kind}_{max(found)}.pb exists")
        tensors[kind] = tuple(
            read_tensor(folder / f"{kind}_{number}.pb") for number in range(len(found))
        )
    return ReferenceData(tensors["input"], tensors["output"])


def read_tensor(path: Path) -> NamedTensor:
    """Read one tensor file; ModelError: missing, too large, or no ONNX tensor; the message starts
    with the file's name."""
    if not path.is_file():
        raise ModelError(f"{path.name}: is not a file; expected an ONNX tensor")
    if path.stat().st_size > MAX_TENSOR_BYTES + 2**16:  # names and dimensions beside the values
        raise ModelError(
            f"{path.name}: {path.stat().st_size} bytes, expected at most {MAX_TENSOR_BYTES}"
        )
    content = path.read_bytes()
    try:
        tensor = onnx.load_tensor_from_string(content)
    except Exception as error:  # protobuf's own error, which onnx does not pass on
        raise _broken(path, error) from None
    # A reference to another file would have us read wherever it points.
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"{path.name}: keeps its values in another file; expected them inside")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path.name}: broken: a negative dimension in {list(tensor.dims)}")
    try:
        values = numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise _broken(path, error) from None
    element = TensorProto.DataType.Name(tensor.data_type).lower()
    return NamedTensor(tensor.name, f"tensor({element})", values)


def _broken(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path.name}: broken or not an ONNX tensor ({one_line(error, 120)})")
