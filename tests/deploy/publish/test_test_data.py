import os
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import ssd34.deploy.publish.reference_data as module
from ssd34.deploy.publish.reference_data import (
    find_test_data,
    read_tensor,
    read_test_data,
    write_test_data,
)
from ssd34.errors import ModelError, OptionError
from tests.support.refusals import refused

IMAGE = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) / 7
OUTPUTS = {
    "bboxes": np.array([[[0, 0.25, 0.5, 1]]], np.float32),
    "labels": np.array([[17]]),
    "scores": np.array([[0.875]], np.float32),
}
TYPES = {"bboxes": TensorProto.FLOAT, "labels": TensorProto.INT64, "scores": TensorProto.FLOAT}


def proto(values, name="x"):
    return numpy_helper.from_array(np.asarray(values), name)


def save(path, tensor):
    path.write_bytes(tensor.SerializeToString())


OUTPUT = proto(OUTPUTS["bboxes"], "bboxes").SerializeToString()


@pytest.fixture
def folder(tmp_path):
    """Test data written by onnx itself."""
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    save(folder / "input_0.pb", proto(IMAGE, "image"))
    for number, (name, values) in enumerate(OUTPUTS.items()):
        save(folder / f"output_{number}.pb", proto(values, name))
    return folder


# --- writing --------------------------------------------------------------------------------


def test_onnx_reads_what_is_written(tmp_path):
    image = IMAGE.transpose(0, 2, 3, 1)[:, ::-1]  # in order, though it is not contiguous
    write_test_data(tmp_path / "a" / "set", {"image": image}, OUTPUTS)
    files = sorted(path.name for path in (tmp_path / "a" / "set").iterdir())
    assert files == ["input_0.pb", "output_0.pb", "output_1.pb", "output_2.pb"]
    read = onnx.load_tensor(tmp_path / "a" / "set" / "input_0.pb")
    assert read.name == "image"
    np.testing.assert_array_equal(numpy_helper.to_array(read), image)
    for number, (name, values) in enumerate(OUTPUTS.items()):
        tensor = onnx.load_tensor(tmp_path / "a" / "set" / f"output_{number}.pb")
        assert (tensor.name, tensor.data_type) == (name, TYPES[name])
        assert list(tensor.dims) == list(values.shape)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), values)


def test_bytes_are_those_of_the_format(tmp_path):
    """Wire format by hand: dims (field 1), data_type (2), name (8), raw_data (9)."""
    write_test_data(tmp_path, {}, {"x": np.array([1, 2], np.float32)})
    expected = "080210014201784a080000803f00000040"
    assert (tmp_path / "output_0.pb").read_bytes().hex() == expected


def test_the_folder_holds_what_was_written_last(tmp_path):
    write_test_data(tmp_path, {"a": IMAGE, "b": IMAGE}, OUTPUTS)
    (tmp_path / "notes.txt").write_text("mine")
    write_test_data(tmp_path, {"image": IMAGE}, {"x": IMAGE})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["input_0.pb", "notes.txt", "output_0.pb"]


def test_what_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TENSOR_BYTES", 47)
    date = np.array(["2026-01-01"], "datetime64[D]")
    for inputs, outputs, *facts in (
        ({"image": IMAGE[:, :1]}, {}),
        ({}, {"x": date}, "x", "datetime64"),
        ({"image": IMAGE}, {"x": IMAGE}, "image", 48, 47),
    ):
        with refused(OptionError, *facts):
            write_test_data(tmp_path, inputs, outputs)
    assert not list(tmp_path.iterdir())


# --- reading --------------------------------------------------------------------------------


def test_numbers_count_not_the_alphabet(tmp_path):
    write_test_data(tmp_path, {}, {f"o{k}": np.array([k]) for k in range(12)})
    assert [tensor.name for tensor in read_test_data(tmp_path).outputs] == [
        f"o{k}" for k in range(12)
    ]


def test_values_outside_raw_data_and_without_a_name_are_read(tmp_path):
    """As other writers store them."""
    tensor = TensorProto(dims=[2], data_type=TensorProto.INT64, int64_data=[5, -6])
    save(tmp_path / "output_0.pb", tensor)
    read = read_tensor(tmp_path / "output_0.pb")
    assert (read.name, read.type, read.values.tolist()) == ("", "tensor(int64)", [5, -6])


def test_other_files_are_ignored(folder):
    for name in ("._output_0.pb", "output_3.pb.part", "output_01.pb", "README", "output_x.pb"):
        (folder / name).write_bytes(b"?")
    assert len(read_test_data(folder).outputs) == 3


def external():
    tensor = TensorProto(dims=[2], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    return tensor.SerializeToString()


def tensor_of(**changes):
    fields: dict[str, Any] = {"dims": [2], "data_type": TensorProto.FLOAT, "raw_data": bytes(8)}
    return TensorProto(**(fields | changes)).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        *(OUTPUT[:keep] for keep in (*range(1, 34, 4), -1)),
        b"", b"hello\n", b"\xff" * 50,
        *(tensor_of(dims=dims) for dims in ([-1], [2**40], [2**62, 2**62])),
        *(tensor_of(data_type=kind) for kind in (99, TensorProto.STRING)),
        external(),
        None,  # missing
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_named(folder, content):
    (folder / "secret").write_bytes(bytes(8))
    if content is None:
        (folder / "output_0.pb").unlink()
    else:
        (folder / "output_0.pb").write_bytes(content)
    with refused(ModelError, "output_0.pb"):
        read_test_data(folder)


def test_no_outputs_folders_and_files_that_are_too_large(folder):
    os.truncate(folder / "input_0.pb", module.MAX_TENSOR_BYTES * 2)
    with refused(ModelError, "input_0.pb", module.MAX_TENSOR_BYTES * 2):
        read_test_data(folder)
    (folder / "input_0.pb").unlink()
    (folder / "input_0.pb").mkdir()
    with refused(ModelError, "input_0.pb"):
        read_test_data(folder)
    (folder / "input_0.pb").rmdir()
    for number in range(3):
        (folder / f"output_{number}.pb").unlink()
    with refused(ModelError, "output_0.pb"):
        read_test_data(folder)


def test_folders_in_the_order_of_their_numbers(tmp_path):
    for name in ("test_data_set_10", "test_data_set_2", "test_data_set_0", "test_data", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "test_data_set_1").write_text("a file")
    names = [path.name for path in find_test_data(tmp_path)]
    assert names == ["test_data_set_0", "test_data_set_2", "test_data_set_10"]
