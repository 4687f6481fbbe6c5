import dataclasses
import json

import numpy as np
import pytest

from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.deploy.search.bench import (
    LayerCost,
    measure_layer_costs,
    measure_output_noise,
    sum_layer_times,
)
from ssd34.deploy.search.log import LayerLog
from ssd34.images.read import read_image
from ssd34.runtime.timing import NodeTime, measure_node_times
from tests.conftest import EXAMPLES

QDQ = QuantizeOptions(form="qdq", opset=13)
PICTURES = [read_image(EXAMPLES / f"{name}.jpg") for name in ("astronaut",)]


def test_every_convolution_has_its_own_noise_and_time(tiny_network, tiny_statistics):
    empty = tiny_network.loc[0]
    layers = [emptied(layer) if layer.name == empty else layer for layer in tiny_network.layers]
    network = dataclasses.replace(tiny_network, layers=tuple(layers))
    statistics = dataclasses.replace(tiny_statistics, network=network.fingerprint)
    done: list[int] = []
    costs = measure_layer_costs(network, statistics, QDQ, PICTURES, threads=1, progress=done.append)
    convolutions = {layer.name for layer in network.convs}
    assert {cost.name for cost in costs} == convolutions
    assert done == list(range(1, len(convolutions) + 1))
    # Under whatever name the engine ran a layer, its time was found, in both files.
    assert all(cost.float_ms > 0 and cost.int8_ms > 0 for cost in costs)
    assert costs == sorted(costs, key=lambda cost: -cost.noise_per_ms)
    # What computes nothing loses nothing; everything else does.
    assert [cost.name for cost in costs if cost.noise == 0] == [empty]


def test_every_convolution_of_the_other_form_has_a_time(tiny_network, tiny_statistics, tmp_path):
    model = quantize_network(tiny_network, tiny_statistics, QuantizeOptions(), policy=None)
    save_model(model, tmp_path / "int8.onnx")
    image = preprocess(PICTURES[0], 64)
    nodes = measure_node_times(tmp_path / "int8.onnx", "onnxruntime", image, threads=1)
    times = sum_layer_times(nodes, [layer.name for layer in tiny_network.convs])
    assert min(times.values()) > 0


def test_what_no_detection_can_come_from_is_no_noise():
    """A default box that is surely background; logits that the softmax makes nothing of."""
    conf = np.zeros((1, 3, 2), np.float32)
    conf[0, :, 0] = (12, 0, -9)
    conf[0, :, 1] = (1, 3, -20)
    loc = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    new_loc, new_conf = loc.copy(), conf.copy()
    new_loc[0, :, 0] += 5  # of the box that is background
    new_conf[0, 2] = -6  # cut off from below
    assert measure_output_noise((loc, conf), (new_loc, new_conf)) == 0
    new_conf[0, 1, 1] += 0.5
    in_conf = measure_output_noise((loc, conf), (new_loc, new_conf))
    assert in_conf == pytest.approx(0.25 / 6 / np.maximum(conf, conf.max(1) - 8).var())
    new_loc[0, :, 1] += 0.5
    in_both = measure_output_noise((loc, conf), (new_loc, new_conf))
    assert in_both - in_conf == pytest.approx(0.25 / loc[0, :, 1].var())
    # Where nothing can be a detection all boxes count.
    conf[0, 0] = 12
    assert measure_output_noise((loc, conf), (loc + 1, conf)) == pytest.approx(1 / loc.var())


def emptied(layer):
    weight, bias = layer.arrays.weight, layer.arrays.bias
    conv = dataclasses.replace(layer.arrays, weight=np.zeros_like(weight), bias=np.zeros_like(bias))
    return dataclasses.replace(layer, conv=conv)


def test_times_by_the_names_that_engines_give():
    layers = ("heads.conf.1", "heads.conf.10", "backbone.conv1", "backbone.layer1.0.conv1")
    nodes = [
        NodeTime("backbone.conv1.relu_nchwc", "Conv", 8.0),
        NodeTime("backbone.layer1.0.conv1_token_26", "QLinearConv", 4.0),
        NodeTime("heads.conf.1", "Conv", 2.0),
        NodeTime("heads.conf.1.flat_dq", "DequantizeLinear", 0.5),
        NodeTime("heads.conf.10_nchwc", "Conv", 1.0),
        NodeTime("ReorderOutput_token_80", "ReorderOutput", 16.0),
        NodeTime("tail.softmax", "Softmax", 32.0),
    ]
    assert sum_layer_times(nodes, layers) == {
        "heads.conf.1": 2.5, "heads.conf.10": 1.0,
        "backbone.conv1": 8.0, "backbone.layer1.0.conv1": 4.0,
    }  # fmt: skip


def test_a_layer_that_int8_makes_no_faster_goes_back_first():
    slow = LayerCost("slow", noise=0.1, float_ms=1.0, int8_ms=2.0)
    fast = LayerCost("fast", noise=0.2, float_ms=2.0, int8_ms=1.0)
    assert slow.noise_per_ms > fast.noise_per_ms == pytest.approx(0.2)


COSTS = [LayerCost("a", 0.5, 3.0, 1.0), LayerCost("b", 0.25, 4.0, 1.5)]
SUBJECT = {"network": "n", "pictures": 3, "sides": (1, 2)}


def test_rankings_come_back(tmp_path):
    """Those of another search do not count."""
    path = tmp_path / "layers.json"
    log = LayerLog(path, subject=SUBJECT, resume=False)
    assert log.known(QDQ) is None
    log.add(QDQ, COSTS)
    log.add(QuantizeOptions(float_nodes=("a",)), COSTS[:1])
    again = LayerLog(path, subject=SUBJECT, resume=True)
    assert again.known(QDQ) == COSTS
    assert again.known(QuantizeOptions(float_nodes=("a",))) == COSTS[:1]
    assert json.loads(path.read_text())["rankings"][0]["layers"][0]["noise_per_ms"] == 0.25
    for subject, resume in ((SUBJECT, False), ({**SUBJECT, "pictures": 4}, True)):
        assert LayerLog(path, subject=subject, resume=resume).known(QDQ) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "ssd34-layers-1"}', "\xff", "3.0"])
def test_a_broken_file_is_measured_again(tmp_path, content):
    path = tmp_path / "layers.json"
    LayerLog(path, subject=SUBJECT, resume=False).add(QDQ, COSTS)
    path.write_text(
        path.read_text().replace("3.0", "null") if content == "3.0" else content, encoding="latin-1"
    )
    assert LayerLog(path, subject=SUBJECT, resume=True).known(QDQ) is None
