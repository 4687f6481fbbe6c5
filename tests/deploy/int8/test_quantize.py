import dataclasses
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ssd34.core.postprocess import ZOO
from ssd34.core.preprocess import preprocess, resize
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.layers import Conv, make_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.deploy.publish.compare_outputs import INT8, choose_tolerance
from ssd34.errors import ModelError, OptionError
from ssd34.files.checkpoint import Checkpoint
from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from ssd34.runtime.onnxruntime_engine import session_options
from tests.conftest import EXAMPLES, TINY_LABELS
from tests.support.integer_reference import constants_of, integer_node
from tests.support.plain_runs import assert_all_close, plain_session
from tests.support.refusals import refused

QOPERATOR = QuantizeOptions()
QDQ = QuantizeOptions(form="qdq", opset=13)
PICTURES = [read_image(EXAMPLES / f"{name}.jpg") for name in ("astronaut", "chelsea", "coffee")]


@pytest.fixture(scope="module")
def network(tiny_network):
    return tiny_network


@pytest.fixture(scope="module")
def statistics(tiny_statistics):
    return tiny_statistics


@pytest.fixture(scope="module")
def float_raw(tiny_checkpoint):
    return outputs_of(make_onnx_model(tiny_checkpoint, ExportOptions(policy=None, batch=None)))


def floats(pictures=PICTURES):
    return np.concatenate([preprocess(picture, 64) for picture in pictures])


def session(model, *, optimised=True):
    options = session_options(1)
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def outputs_of(model, images=None, *, optimised=True):
    images = floats() if images is None else images
    return session(model, optimised=optimised).run(["loc", "conf"], {"image": images})


def raw(network, statistics, options, **more):
    return quantize_network(network, statistics, options, policy=None, batch=None, **more)


def noise_ratio(found, expected):
    """Signal to noise in decibels, of loc and conf."""
    return [
        10 * np.log10(np.var(b) / np.square(a - b).mean())
        for a, b in zip(found, expected, strict=True)
    ]


def ops(model):
    return [node.op_type for node in model.graph.node]


def inputs(image_input):
    """The pictures as a file takes them."""
    if image_input == "float32":
        return floats()
    return np.stack([resize(picture, 64) for picture in PICTURES])


@pytest.mark.parametrize(
    ("options", "image_input", "decibels"),
    [(QOPERATOR, "float32", 22), (QOPERATOR, "uint8", 22), (QDQ, "float32", 22), (QDQ, "uint8", 22),
     (PUBLISHED_FORMS["12-qdq"], "float32", 20), (QOPERATOR.replace(opset=17), "uint8", 22),
     (QOPERATOR.replace(per_channel=False), "float32", 20),
     (QOPERATOR.replace(reduce_range=True), "uint8", 20),
     (QOPERATOR.replace(bias_correction=False), "float32", 22)],
)  # fmt: skip
def test_int8_stays_close_to_float(network, statistics, float_raw, options, image_input, decibels):
    model = raw(network, statistics, options, image_input=image_input)
    assert min(noise_ratio(outputs_of(model, inputs(image_input)), float_raw)) > decibels
    assert model.opset_import[0].version == options.opset
    scales = [v for k, v in constants_of(model).items() if k.endswith(".weight.scale")]
    assert {scale.ndim for scale in scales} == {int(options.per_channel)}
    assert choose_tolerance(model.graph) is INT8


def with_all_outputs(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in ("QLinearConv", "QLinearAdd", "MaxPool", "QuantizeLinear"):
            copy.graph.output.append(
                helper.make_tensor_value_info(node.output[0], TensorProto.UINT8, None)
            )
    return copy


@pytest.mark.parametrize(
    "options",
    [QOPERATOR, QOPERATOR.replace(per_channel=False), QOPERATOR.replace(reduce_range=True)],
)
def test_every_int8_layer_is_the_integer_arithmetic_of_the_file(network, statistics, options):
    model = with_all_outputs(raw(network, statistics, options))
    runner = session(model)
    names = [output.name for output in runner.get_outputs()]
    values = constants_of(model) | dict(
        zip(names, runner.run(None, {"image": floats(PICTURES[:1])}), strict=True)
    )
    checked = 0
    for node in model.graph.node:
        if node.op_type in ("QLinearConv", "QLinearAdd", "MaxPool"):
            expected = integer_node(node, [values[name] for name in node.input])
            found = values[node.output[0]]
            assert found.dtype == np.uint8
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1, node.name
            assert (found != expected).mean() < 1e-3, node.name
            checked += 1
    assert checked == len(network.layers)


@pytest.mark.parametrize("more", [{}, {"per_channel": False}, {"reduce_range": True}])
def test_both_forms_are_one_network(network, statistics, more):
    """What fused QDQ computes is the operators' result, to one step of each head."""
    model = raw(network, statistics, QOPERATOR.replace(**more))
    constants, found = constants_of(model), outputs_of(model)
    other = outputs_of(raw(network, statistics, QDQ.replace(**more)))
    sides, boxes = network.spec.feature_sizes, network.spec.boxes_per_cell
    ends = np.cumsum([side**2 * count for side, count in zip(sides, boxes, strict=True)])
    for names, a, b in zip((network.loc, network.conf), found, other, strict=True):
        for name, part, twin in zip(
            names, np.split(a, ends[:-1], axis=2), np.split(b, ends[:-1], axis=2), strict=True
        ):
            assert np.abs(part - twin).max() <= 1.001 * constants[f"{name}.scale"], name


def test_qdq_computed_in_float_is_close(network, statistics):
    """A runtime that does not fuse computes the same but for halves that round the other way.

    How many do depends on the order of float sums, and so on the processor: 38 dB without AVX-512,
    above 40 with it. Sums that saturate at 16 bits would give 28.
    """
    model = raw(network, statistics, QDQ)
    assert min(noise_ratio(outputs_of(model, optimised=False), outputs_of(model))) > 35


def test_the_tail_and_the_metadata_are_those_of_export(network, statistics, tmp_path):
    policy = ZOO.replace(score_threshold=0.4)
    for batch, image_input in ((1, "float32"), (2, "uint8"), (None, "float32")):
        path = tmp_path / f"{batch}.onnx"
        how: dict[str, Any] = {"policy": policy, "batch": batch, "image_input": image_input}
        save_model(quantize_network(network, statistics, QOPERATOR, **how), path)
        detector = Detector.load(path)
        assert (detector.spec, detector.labels) == (network.spec, TINY_LABELS)
        assert detector.session.batch == batch
        assert detector.session.takes_bytes == (image_input == "uint8")
        assert len(detector.detect(EXAMPLES / "chelsea.jpg", score=0.4)) > 0
    model = quantize_network(
        network, statistics, QDQ.replace(float_nodes=("backbone.conv1.linear",))
    )
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    how = metadata["ssd34.quantization"]
    assert how["pictures"] == 3
    assert how["form"] == "qdq"
    assert how["float_nodes"] == ["backbone.conv1"]
    assert "tail.nms" in {node.name for node in model.graph.node}


@pytest.mark.parametrize("form", ["qoperator", "qdq"])
def test_weights_are_stored_once_in_int8(network, statistics, tiny_checkpoint, form):
    model = raw(network, statistics, QuantizeOptions(form=form, opset=13))
    assert model.ByteSize() < 0.27 * make_onnx_model(tiny_checkpoint, ExportOptions()).ByteSize()
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 2048]
    assert {t.data_type for t in large} == {TensorProto.INT8}
    assert len(large) == len({t.name for t in large})


@pytest.mark.parametrize("image_input", ["float32", "uint8"])
@pytest.mark.parametrize("options", [QOPERATOR, QDQ])
def test_onnxruntime_leaves_nothing_in_float(network, statistics, tmp_path, options, image_input):
    model = raw(network, statistics, options, image_input=image_input)
    plain_session(model, optimized_model_filepath=str(tmp_path / "optimised.onnx"))
    found = ops(onnx.load(tmp_path / "optimised.onnx"))
    if options is QOPERATOR:  # nothing has to be fused
        assert not {"Conv", "Add", "Relu", "Cast", "Sub"} & set(ops(model))
    assert not {"Conv", "FusedConv", "Add", "Relu"} & set(found)
    assert found.count("QLinearConv") == sum(layer.conv is not None for layer in network.layers)
    assert found.count("QLinearAdd") == 6
    assert found.count("QuantizeLinear") == (image_input == "float32")
    assert found.count("DequantizeLinear") == len(network.loc) * 2


@pytest.mark.parametrize("image_input", ["float32", "uint8"])
@pytest.mark.parametrize("options", [QOPERATOR, QDQ])
def test_all_nodes_in_float_is_the_float_graph(
    network, statistics, float_raw, options, image_input
):
    names = tuple(layer.name for layer in network.layers)
    model = raw(network, statistics, options.replace(float_nodes=names), image_input=image_input)
    assert not {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} & set(ops(model))
    assert_all_close(outputs_of(model, inputs(image_input)), float_raw, atol=2e-4)


@pytest.mark.parametrize(
    ("options", "names"),
    [(QDQ, ["backbone.conv1"]), (QOPERATOR, ["backbone.maxpool"]), (QDQ, ["backbone.layer1.0.add"]),
     (QOPERATOR, ["backbone.layer1.0.conv2", "backbone.layer1.0.add", "backbone.layer1.1.add"]),
     (QDQ, ["backbone.layer2.0.downsample"]), (QOPERATOR, ["heads.conf.0", "extras.0.conv1"])],
)  # fmt: skip
def test_single_nodes_in_float(network, statistics, float_raw, options, names):
    model = raw(network, statistics, options.replace(float_nodes=tuple(names)))
    kinds = {node.name: node.op_type for node in model.graph.node}
    for name in names:
        assert kinds[name] in ("Conv", "Add", "MaxPool")
        assert (f"{name}.relu" in kinds) == network.by_name[name].relu
    assert min(noise_ratio(outputs_of(model), float_raw)) > 22
    # No value is turned into steps or back twice.
    assert len({n.output[0] for n in model.graph.node}) == len(model.graph.node)
    for op in ("QuantizeLinear", "DequantizeLinear"):
        sources = [n.input[0] for n in model.graph.node if n.op_type == op]
        assert len(sources) == len(set(sources))


def test_neighbours_in_float_hand_over_in_float(network, statistics):
    names = ("backbone.layer1.0.conv1", "backbone.layer1.0.conv2", "backbone.layer1.0.add")
    model = raw(network, statistics, QOPERATOR.replace(float_nodes=names))
    by_name = {node.name: node for node in model.graph.node}
    # Into the block, once for conv1 and add; out of it, once for both that read it.
    assert by_name["backbone.layer1.0.conv1"].input[0] == "backbone.maxpool.float"
    assert by_name["backbone.layer1.0.conv2"].input[0] == "backbone.layer1.0.conv1.relu"
    assert list(by_name["backbone.layer1.0.add"].input) == [
        "backbone.layer1.0.conv2", "backbone.maxpool.float",
    ]  # fmt: skip
    assert by_name["backbone.layer1.1.conv1"].input[0] == "backbone.layer1.0.add.steps"
    assert by_name["backbone.layer1.1.add"].input[3] == "backbone.layer1.0.add.steps"


def test_weights_of_seven_bits_cannot_saturate(network, statistics):
    """Without VNNI two products of a byte and a weight are added in int16."""
    for reduced, limit in ((False, 127), (True, 64)):
        model = raw(network, statistics, QOPERATOR.replace(reduce_range=reduced))
        weights = [v for k, v in constants_of(model).items() if k.endswith(".weight")]
        per_channel = [np.abs(w.astype(int)).max(axis=(1, 2, 3)) for w in weights]
        assert {int(m) for each in per_channel for m in each} == {limit}
        worst = 255 * 2 * limit
        assert (worst <= np.iinfo(np.int16).max) == reduced
    for layer in network.layers:  # rectified values start at zero
        if layer.relu:
            assert constants_of(model)[f"{layer.name}.zero_point"] == 0


def test_a_dead_channel_with_a_bias(network, tiny_checkpoint):
    """No weight but a bias: the bias has to fit into its 32 bits all the same."""
    weights = dict(tiny_checkpoint.weights)
    for name, value in (("weight", 0.0), ("bias", 3.0)):
        array = weights[f"heads.conf.0.{name}"].copy()
        array[5] = value
        array[6] = 1e-30 if name == "weight" else 3.0
        weights[f"heads.conf.0.{name}"] = array
    dead = make_network(Checkpoint(spec=network.spec, labels=network.labels, weights=weights))
    statistics = calibrate(dead, PICTURES)
    for options in (QOPERATOR, QDQ, PUBLISHED_FORMS["12-qdq"]):
        conf = outputs_of(raw(dead, statistics, options))[1]
        channels = dead.spec.num_channels
        cells = 64
        found = conf[:, :, : 4 * cells].reshape(len(conf), 4 * channels, cells)
        np.testing.assert_allclose(found[:, 5:7], 3.0, atol=0.2)


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"form": "qdq", "opset": 12}, [13]), ({"opset": 11}, [11, 12]), ({"opset": 99}, [99]),
     ({"form": "tensor"}, ["tensor"]), ({"ranges": "max"}, ["max", "minmax"]),
     ({"percentile": float("nan")}, ["50", "100", "nan"]),
     ({"float_nodes": ("backbone.conv2",)}, ["backbone.conv2", "backbone.conv1"]),
     ({"bits": 4}, ["bits"])],
)  # fmt: skip
def test_options_that_cannot_be(network, statistics, options, facts):
    with refused(OptionError, *facts):
        raw(network, statistics, QuantizeOptions.from_dict(options))


def test_statistics_of_another_network_are_refused(network, statistics):
    first = network.layers[0]
    moved = Conv(first.conv.weight, first.conv.bias + 1)
    other = dataclasses.replace(
        network, layers=(dataclasses.replace(first, conv=moved), *network.layers[1:])
    )
    with pytest.raises(ModelError):
        quantize_network(other, statistics, QOPERATOR)
