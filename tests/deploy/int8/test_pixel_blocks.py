import numpy as np
import pytest
from onnx import TensorProto, helper

from ssd34.deploy.graph.builder import GraphBuilder, add_planes, find_newest_opset
from ssd34.deploy.graph.layers import CONV, IMAGE, Layer, make_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import Int8Conv, QuantizeOptions
from ssd34.deploy.int8.quantize import (
    add_blocks_of_bytes,
    add_blocks_of_planes,
    convert_to_blocks,
    quantize_network,
)
from tests.conftest import TINY_LABELS, drawn_checkpoint, tiny_spec
from tests.support.integer_reference import constants_of, windows
from tests.support.plain_runs import plain_session

SIDE = 20


def block_reference(pixels):
    """(N, C, S, S) to (N, 4 * C, S / 2, S / 2): a block's row, column, channel."""
    corners = [pixels[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return np.concatenate(corners, axis=1)


def sums(x, weight, layer):
    window = {
        "pads": layer.window["pads"],
        "kernel_shape": [layer.kernel],
        "strides": [layer.stride],
    }
    return np.tensordot(windows(x, window, fill=0), weight.astype(np.int64), ((1, 4, 5), (1, 2, 3)))


@pytest.mark.parametrize(("kernel", "padding"), [(7, 3), (7, 0), (3, 1), (5, 2), (4, 1)])
def test_a_window_of_blocks_has_the_sums_of_its_pixels(kernel, padding):
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (5, 3, kernel, kernel)).astype(np.int8)
    conv = Int8Conv(weight, np.array(1, np.float32), np.zeros(5, np.int32))
    layer = Layer("first", CONV, (IMAGE,), kernel=kernel, stride=2, padding=padding)
    pixels = generator.integers(0, 256, (2, 3, SIDE, SIDE))
    window, wide = convert_to_blocks(layer, conv, side=SIDE)
    assert wide.weight.shape[1] == 12
    assert window.stride == 1
    np.testing.assert_array_equal(
        sums(block_reference(pixels), wide.weight, window), sums(pixels, weight, layer)
    )


@pytest.mark.parametrize("opset", [12, 13, find_newest_opset()])
def test_the_picture_in_blocks(opset):
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (2, 3, SIDE, SIDE)).astype(np.uint8)
    for kind, image in (
        (TensorProto.FLOAT, pixels.astype(np.float32)),
        (TensorProto.UINT8, pixels.transpose(0, 2, 3, 1)),
    ):
        builder = GraphBuilder(opset=opset)
        if kind == TensorProto.FLOAT:
            output = add_blocks_of_planes(builder, "image")
        else:
            output = add_planes(builder, add_blocks_of_bytes(builder, "image", side=SIDE))
        graph = helper.make_graph(
            builder.nodes, "blocks",
            [helper.make_tensor_value_info("image", kind, image.shape)],
            [helper.make_tensor_value_info(output, kind, [2, 12, SIDE // 2, SIDE // 2])],
            list(builder.constants.values()),
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        found = plain_session(model).run(None, {"image": image})[0]
        np.testing.assert_array_equal(found, block_reference(pixels))


def test_a_picture_of_odd_size_stays_pixels():
    network = make_network(drawn_checkpoint(tiny_spec().at_size(63), TINY_LABELS))
    picture = np.random.default_rng(2).integers(0, 256, (63, 63, 3)).astype(np.uint8)
    statistics = calibrate(network, [picture])
    for image_input in ("float32", "uint8"):
        model = quantize_network(
            network, statistics, QuantizeOptions(), policy=None, image_input=image_input
        )
        assert constants_of(model)["backbone.conv1.weight"].shape[1:] == (3, 7, 7)
        plain_session(model)
