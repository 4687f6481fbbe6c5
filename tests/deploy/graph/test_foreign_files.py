"""Files that other tools have rewritten run like the file they were made from, or say why not."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from ssd34.core.external_data import check_weights_inside
from ssd34.deploy.graph.onnx_file import read_model, tidy
from ssd34.deploy.graph.read import read_network
from ssd34.deploy.publish.package import package
from ssd34.deploy.publish.verify import verify
from ssd34.errors import ModelError
from ssd34.runtime.detector import Detector
from ssd34.runtime.timing import compute_tail_share, measure_node_times
from ssd34.workflows.evaluate import _load
from ssd34.workflows.training.runs import read_onnx_checkpoint
from tests.support.cli import invoke
from tests.support.plain_runs import plain_session
from tests.support.refusals import refused
from tests.support.small_models import SET, save_data, write_small_model

PIXELS = np.random.default_rng(3).integers(0, 256, (50, 70, 3)).astype(np.uint8)


def list_initializers(model):
    """As files of the IR version 3 have to."""
    for tensor in model.graph.initializer:
        model.graph.input.insert(
            0, helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


def replace_nodes(model, nodes):
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def make_constants(model):
    """Constant nodes, with numbers as attributes where they can be."""
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and len(tensor.dims) == 1:
            value = {"value_ints": numpy_helper.to_array(tensor).tolist()}
        elif tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 0:
            value = {"value_float": float(numpy_helper.to_array(tensor))}
        else:
            value = {"value": tensor}
        nodes.append(helper.make_node("Constant", [], [tensor.name], **value))
    del model.graph.initializer[:]
    return replace_nodes(model, [*nodes, *model.graph.node])


def rename(model):
    """Everything but inputs and outputs."""
    names = {value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"t{len(names)}")
    for node in model.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            for number, name in enumerate(field):
                field[number] = names.setdefault(name, f"t{len(names)}")
    return model


def free_batch(model):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def without_shapes(model):
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].Clear()
    return model


def rename_input(model):
    image = model.graph.input[0].name
    model.graph.input[0].name = "data"
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = "data" if name == image else name
    return model


def halve(model):
    """In float16 inside, as onnxconverter-common does it, which appends its casts at the end."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def optimised(model, folder, level):
    path = folder / "optimised.onnx"
    how = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    plain_session(model, graph_optimization_level=how, optimized_model_filepath=str(path))
    return onnx.load(path)


WAYS = {
    "initializers as inputs": list_initializers,
    "constants": make_constants,
    "renamed": rename,
    "free batch": free_batch,
    "without shapes": without_shapes,
    "renamed input": rename_input,
    "float16": halve,
    "opset 17": lambda model: version_converter.convert_version(model, 17),
}


RAW_TOO = ("initializers as inputs", "renamed", "float16", "ALL")


@pytest.mark.parametrize(
    ("kind", "way"),
    [*(("tiny_model", way) for way in (*WAYS, "BASIC", "EXTENDED", "ALL")),
     *(("tiny_raw_model", way) for way in RAW_TOO)],
)  # fmt: skip
def test_a_rewritten_file_finds_the_same(kind, way, request, tmp_path):
    original = request.getfixturevalue(kind)
    model, path = onnx.load(original), tmp_path / "other.onnx"
    onnx.save(WAYS[way](model) if way in WAYS else optimised(model, tmp_path, way), path)
    atol = 5e-3 if way == "float16" else 1e-5
    expected = Detector.load(original).detect(PIXELS, score=0.1).scores
    detector = Detector.load(path)
    np.testing.assert_allclose(detector.detect(PIXELS, score=0.1).scores, expected, atol=atol)
    tensor = detector.session.input_for(PIXELS)
    assert (
        compute_tail_share(measure_node_times(path, "onnxruntime", tensor, threads=1)) is not None
    )

    if (kind, way) == ("tiny_model", "renamed"):
        with pytest.raises(ModelError, match="--tail none"):
            _load(path, threads=1, engine="onnxruntime", raw=True)
    else:
        session, _ = _load(path, threads=1, engine="onnxruntime", raw=True)
        assert session.path == path
        found = Detector(session).detect(PIXELS, score=0.1)
        np.testing.assert_allclose(found.scores, expected, atol=atol)

    if way in ("EXTENDED", "ALL"):
        for read in (read_network, read_onnx_checkpoint):
            with refused(ModelError, path, "com.microsoft", "Conv"):
                read(path)
    else:
        ours = read_onnx_checkpoint(original).weights
        theirs = read_onnx_checkpoint(path).weights
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_allclose(theirs[name], array, atol=1e-3 if way == "float16" else 0)

    if way == "float16":  # ONNX's own rules: in order
        assert "sorted" in {c.name: c.detail for c in verify(path).checks}["structure"]
    else:
        assert verify(path).passed
    if way == "constants":
        assert package(path, output=tmp_path / "packed", picture=PIXELS).model.is_file()


def test_files_without_our_metadata_have_to_be_the_published_network(tiny_model, tmp_path):
    model, path = onnx.load(tiny_model), tmp_path / "bare.onnx"
    del model.metadata_props[:]
    onnx.save(model, path)
    for read in (Detector.load, read_network, read_onnx_checkpoint):
        with refused(ModelError, path, "metadata"):
            read(path)
    assert not verify(path).passed


def test_openvino_names_operators_that_it_does_not_have(tiny_raw_model, tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "optimised.onnx"
    optimised(onnx.load(tiny_raw_model), tmp_path, "ALL")
    with refused(ModelError, path, "com.microsoft", "onnxruntime"):
        Detector.load(path, engine="openvino")


# --- weights in other files -----------------------------------------------------------------


def test_weights_in_another_file_are_refused_everywhere(tiny_model, tmp_path):
    """Two data files would make two models of one checksum."""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(tiny_model), path, save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    doors = (
        Detector.load,
        lambda p: Detector.load(p, engine="openvino"),
        lambda p: _load(p, threads=1, engine="auto", raw=True),
        read_network,
        read_model,
        read_onnx_checkpoint,
        lambda p: package(p, output=tmp_path / "packed", picture=PIXELS),
    )
    for door in doors:
        with refused(ModelError, path, "weights.bin"):
            door(path)
    failed = [check for check in verify(path).checks if check.passed is False]
    assert len(failed) == 1 and "weights.bin" in failed[0].detail
    onnx.save(onnx.load(path), tmp_path / "joined.onnx")
    assert Detector.load(tmp_path / "joined.onnx").spec.name == "tiny"


def external(location="secret"):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "x")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def places():
    """A tensor that points elsewhere, in every place of a model."""
    constant = helper.make_node("Constant", [], ["y"], value=external())
    inner = helper.make_graph([constant], "inner", [], [])
    sparse = helper.make_sparse_tensor(external(), external(), [3])
    yield helper.make_graph([], "g", [], [], [external()])
    yield helper.make_graph([constant], "g", [], [])
    yield helper.make_graph([], "g", [], [], sparse_initializer=[sparse])
    yield helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "g", [], [])
    yield helper.make_graph([helper.make_node("Constant", [], ["y"], sparse_value=sparse)],
                            "g", [], [])  # fmt: skip


@pytest.mark.parametrize("graph", [*places()])
def test_every_place_is_looked_at(graph, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="secret"):
        check_weights_inside(path)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\xff" * 50, b"\x3a\xff\xff\x01", b"no model"])
def test_what_is_no_onnx_file_is_left_to_its_reader(content, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    check_weights_inside(path)


# --- values ---------------------------------------------------------------------------------


BOXES = np.array([[[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.9, 0.9]]], np.float32)
SCORES = np.array([[0.9, 0.8]], np.float32)
WRONG = {
    "nan": (BOXES * np.float32("nan"), SCORES),
    "6.4": (BOXES * 64, SCORES),
    "inf": (BOXES, SCORES * np.float32("inf")),
    "90": (BOXES, SCORES * 100),
}


@pytest.mark.parametrize("shown", WRONG)
def test_every_command_tells_values_that_are_no_detections(shown, shapes, tmp_path):
    """One line on standard error, exit code 2, and nothing written."""
    boxes, scores = WRONG[shown]
    outputs = {"bboxes": boxes, "labels": np.array([[1, 2]]), "scores": scores}
    path = write_small_model(tmp_path / "wrong.onnx", outputs)
    picture, out = shapes / "images" / "0001.png", tmp_path / "out"
    detect = ("detect", picture, "--model", path)
    ways = [
        *((*detect, "--format", form) for form in ("table", "json", "csv", "coco")),
        (*detect, "--format", "yolo", "--output", out),
        (*detect, "--save", out),
        ("evaluate", path, "--data", shapes, "--detections", out),
        ("package", path, "--output", out, "--picture", picture),
    ]
    for arguments in ways:
        with refused(ModelError, path, shown):
            invoke(*arguments)
        assert not out.is_file() and not [f for f in out.rglob("*") if f.is_file()], arguments
        shutil.rmtree(out, ignore_errors=True)

    image = np.zeros((1, 3, 64, 64), np.float32)
    save_data(tmp_path, image, outputs)
    failed = [check for check in verify(path).checks if check.passed is False]
    assert [check.name for check in failed] == [f"{SET} values"]
    assert shown in failed[0].detail


def test_branches_read_what_was_made_before_them():
    """Of a graph that is not sorted, as ONNX demands it."""
    make = onnx.helper
    value = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xyz"]
    flag = make.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    branches = [
        make.make_graph([make.make_node(kind, ["made"], [kind])], kind, [],
                        [make.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, [1])])
        for kind in ("Neg", "Abs")
    ]  # fmt: skip
    nodes = [
        make.make_node("Sqrt", ["y"], ["z"]),
        make.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        make.make_node("Relu", ["x"], ["made"]),
    ]
    model = make.make_model(make.make_graph(nodes, "g", [value[0], flag], [value[2]]))
    tidy(model)
    assert [node.op_type for node in model.graph.node] == ["Relu", "If", "Sqrt"]
    onnx.checker.check_model(model)
