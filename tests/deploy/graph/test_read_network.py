import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.labels import COCO_LABELS
from ssd34.core.spec import named_spec
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.graph.read import read_network, read_network_of_model
from ssd34.deploy.int8.calibrate import prepare_float_run
from ssd34.deploy.publish.verify import verify
from ssd34.errors import ModelError, OptionError
from tests.conftest import drawn_checkpoint
from tests.support.plain_runs import plain_session
from tests.support.refusals import refused


def same(one, other, *, atol):
    assert [(x.name, x.kind, x.inputs, x.relu) for x in one.layers] == [
        (x.name, x.kind, x.inputs, x.relu) for x in other.layers
    ]
    assert (one.spec, one.labels, one.loc, one.conf) == (
        other.spec, other.labels, other.loc, other.conf,
    )  # fmt: skip
    for x, y in zip(one.layers, other.layers, strict=True):
        assert (x.kernel, x.stride, x.padding) == (y.kernel, y.stride, y.padding)
        if x.conv is not None:
            np.testing.assert_allclose(x.conv.weight, y.conv.weight, atol=atol, rtol=0)
            np.testing.assert_allclose(x.conv.bias, y.conv.bias, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "options",
    [ExportOptions(opset=10), ExportOptions(opset=17, policy=None, batch=None),
     ExportOptions(image_input="uint8"), ExportOptions(opset=13, image_input="uint8", batch=4)],
)  # fmt: skip
def test_every_kind_of_export_is_the_same_network(tiny_checkpoint, options):
    network = read_network_of_model(make_onnx_model(tiny_checkpoint, options))
    same(network, make_network(tiny_checkpoint), atol=1e-6)
    assert network.layers[0].name == "backbone.conv1"
    assert network.by_name["backbone.layer2.0.add"].inputs == (
        "backbone.layer2.0.conv2", "backbone.layer2.0.downsample",
    )  # fmt: skip
    assert network.loc == ("heads.loc.0", "heads.loc.1", "heads.loc.2", "heads.loc.3")


def published_like(spec) -> onnx.ModelProto:
    """A graph as the published ones are: numbered nodes, no metadata, another tail."""
    checkpoint = drawn_checkpoint(spec, COCO_LABELS)
    model = make_onnx_model(checkpoint, ExportOptions(policy=None))
    numbers = {"image": "image"}
    nodes: list[onnx.NodeProto] = []
    constants = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type in ("Reshape", "Concat"):
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.op_type}_{len(nodes) + 100}"
        del copy.input[:], copy.output[:]
        copy.input.extend(numbers.get(name, name) for name in node.input)
        numbers[node.output[0]] = str(len(nodes) + 300)
        copy.output.append(numbers[node.output[0]])
        nodes.append(copy)
        if node.name == "backbone.layer1.0.conv1":
            ones = [np.full(64, v, np.float32) for v in (2.0, 0.5, 0.25, 4.0)]
            for name, value in zip("gbmv", ones, strict=True):
                constants.append(numpy_helper.from_array(value, name))
            nodes.append(
                helper.make_node(
                    "BatchNormalization", [copy.output[0], *"gbmv"], ["normed"], name="BN_1"
                )
            )
            numbers[node.output[0]] = "normed"
    outputs = [numbers[name] for name in ("heads.loc.0", "heads.conf.0")]
    for name in outputs:
        nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes, "torch-jit-export", model.graph.input,
        [helper.make_tensor_value_info(f"{n}_t", TensorProto.FLOAT, None) for n in outputs],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.opset_import)


def test_foreign_names_without_metadata_are_the_published_network():
    spec = named_spec("ssd1200-resnet34")
    network = read_network_of_model(published_like(spec))
    expected = make_network(drawn_checkpoint(spec, COCO_LABELS))
    # The one that the graph normalises.
    normed = expected.by_name["backbone.layer1.0.conv1"].arrays
    factor = np.float32(2 / np.sqrt(4 + 1e-5))
    normed.weight[:] *= factor
    normed.bias[:] = 0.5 + (normed.bias - 0.25) * factor
    same(network, expected, atol=1e-6)


def first(model, op):
    return next(node for node in model.graph.node if node.op_type == op)


def attribute(op, name, value):
    def change(model):
        node = first(model, op)
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def renamed(op, name):
    return lambda model: setattr(first(model, op), "op_type", name)


def inputs(op, *names):
    def change(model):
        first(model, op).input[:] = names

    return change


def values(name, change):
    def changed(model):
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

    return changed


def cut(model):
    model.graph.initializer[0].raw_data = b"12"


def one_more(model):
    node = helper.make_node("MaxPool", ["image"], ["m"], "more", kernel_shape=[2, 2])
    model.graph.node.append(node)


def same_name(model):
    model.graph.node[2].name = model.graph.node[0].name = "twice"


def same_output(model):
    model.graph.node[2].output[0] = model.graph.node[0].output[0]


@pytest.mark.parametrize(
    ("image_input", "change", "facts"),
    [
        ("float32", attribute("Conv", "strides", [1, 1]), ["backbone.conv1", "7x7", "stride 2"]),
        ("float32", attribute("Conv", "pads", [1, 0, 1, 0]), ["backbone.conv1", "padding"]),
        ("float32", attribute("Conv", "group", 2), ["backbone.conv1", "groups"]),
        ("float32", attribute("Conv", "kernel_shape", [3, 3]), ["backbone.conv1", "(64, 3, 7, 7)"]),
        ("float32", attribute("MaxPool", "ceil_mode", 1), ["backbone.maxpool"]),
        ("float32", inputs("Conv", "image", "image"), ["image"]),
        ("float32", inputs("Conv", "image"), ["tiny"]),
        ("float32", inputs("Relu", "image"), ["Relu", "backbone.conv1.relu"]),
        ("float32", renamed("MaxPool", "AveragePool"), ["backbone.conv1"]),
        ("float32", renamed("MaxPool", "BatchNormalization"), ["backbone.maxpool"]),
        ("float32", renamed("Relu", "Sigmoid"), ["backbone.conv1"]),
        ("float32", renamed("Relu", "QuantizeLinear"), ["quantized", "default-float"]),
        ("float32", lambda model: model.ClearField("metadata_props"), ["ssd1200-resnet34"]),
        ("float32", lambda model: model.graph.input.add(name="other"), ["2 inputs"]),
        ("float32", one_more, ["tiny", "more"]),
        ("float32", same_name, ["'twice'"]),
        ("float32", same_output, ["MaxPool", "backbone.maxpool"]),
        ("float32", cut, ["backbone.conv1.weight"]),
        ("float32", values("extras.0.conv1.bias", lambda v: v / np.float32(0)), ["extras.0.conv1"]),
        ("uint8", values("input.mean", lambda v: v + 1), ["mean"]),
        ("uint8", renamed("Transpose", "Flatten"), ["backbone.conv1"]),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_other_graphs_are_refused(tiny_checkpoint, image_input, change, facts):
    model = make_onnx_model(tiny_checkpoint, ExportOptions(image_input=image_input))
    change(model)
    with refused(ModelError, *facts):
        read_network_of_model(model)


def test_constants_that_nothing_reads_are_passed_over(tiny_checkpoint, tmp_path):
    """Texts, and one that gives nothing, which ONNX's own rules refuse."""
    model = make_onnx_model(tiny_checkpoint, ExportOptions())
    for outputs in (["text"], []):
        model.graph.node.append(helper.make_node("Constant", [], outputs, value_string="x"))
    onnx.save(model, tmp_path / "more.onnx")
    same(read_network(tmp_path / "more.onnx"), make_network(tiny_checkpoint), atol=1e-6)


def test_files_that_cannot_be_read(tiny_model, tmp_path):
    data = tiny_model.read_bytes()
    (tmp_path / "text.onnx").write_text("not a protobuf, really")
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    (tmp_path / "large.onnx").touch()
    os.truncate(tmp_path / "large.onnx", 2**31)
    for name in ("missing.onnx", "text.onnx", "half.onnx", "large.onnx"):
        with refused(ModelError, tmp_path / name):
            read_network(tmp_path / name)
    with refused(ModelError, tmp_path / "large.onnx", 2**31 - 1):
        verify(tmp_path / "large.onnx")


def test_the_names_of_nodes_are_checked_with_a_hint(tiny_checkpoint):
    network = make_network(tiny_checkpoint)
    names = ["backbone.layer1.0.add", "backbone.conv1.linear", "backbone.conv1",
             "backbone.layer1.0.conv1.relu"]  # fmt: skip
    layers = ("backbone.layer1.0.add", "backbone.conv1", "backbone.layer1.0.conv1")
    assert network.resolve_names(names) == layers
    with refused(OptionError, "'backbone.layer1.0.ad'", "backbone.layer1.0.add"):
        network.resolve_names(["backbone.layer1.0.ad"])


def test_onnxruntime_agrees_with_the_layers(tiny_checkpoint):
    """The layers written back are the function of the file that they were read from."""
    network = make_network(tiny_checkpoint)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    outputs = dict(prepare_float_run(network)(image))
    runner = plain_session(make_onnx_model(tiny_checkpoint, ExportOptions(policy=None)))
    loc = runner.run(["loc"], {"image": image})[0]
    first = outputs["heads.loc.0"].reshape(4, -1)
    np.testing.assert_allclose(first, loc[0][:, : first.shape[1]], atol=1e-4)
