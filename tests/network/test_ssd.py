import numpy as np
import pytest
import torch
from full_size_chain import drawn_benchmark_weights

from ssd34.core.spec import named_spec
from ssd34.errors import CheckpointError
from ssd34.network.pretrained import convert_benchmark_weights
from ssd34.network.ssd import SSD, convolve, copy_arrays, load_weights
from tests.conftest import tiny_spec
from tests.support.golden import FIGURES, assert_golden, drawn_inputs
from tests.support.refusals import refused


@pytest.mark.parametrize(("network", "every"), [("ssd300", 37), ("ssd1200", 53)])
def test_raw_outputs_equal_the_independent_implementation(network, every):
    spec = named_spec(f"{network}-resnet34")
    _, weights = convert_benchmark_weights(drawn_benchmark_weights(spec), source="drawn", spec=spec)
    model = SSD(spec).eval()
    load_weights(model, weights, source="drawn")
    assert sum(p.numel() for p in model.parameters()) == 19_972_534
    with torch.no_grad():
        loc, conf = model(drawn_inputs(spec).images)
    assert_golden(loc, network, "loc", atol=1e-4)
    assert_golden(conf[:, :, ::every], network, "conf_sample", atol=1e-4)
    assert (
        abs(conf.double().sum().item() - FIGURES[network]["conf_sum"]) < 1e-4 * conf.numel() / 100
    )


def test_frozen_statistics_give_the_same_function_with_one_convolution():
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 5, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(5)
    x = torch.randn(4, 3, 9, 9)
    norm(conv(x))
    norm.eval()
    torch.testing.assert_close(convolve(conv, norm, x), norm(conv(x)), atol=1e-6, rtol=1e-5)


def test_a_smaller_input_uses_the_same_weights_on_fewer_levels():
    spec = named_spec("ssd300-resnet18").replace(num_classes=3)
    model = SSD(spec).eval()
    with torch.no_grad():
        loc, conf = model(torch.zeros(1, 3, 200, 200))
    assert loc.shape == (1, 4, spec.at_size(200).num_default_boxes)
    assert conf.shape == (1, 4, spec.at_size(200).num_default_boxes)


def test_weights_of_another_network_are_refused_by_name():
    model = SSD(tiny_spec())
    weights = copy_arrays(model)
    without = {k: v for k, v in weights.items() if k != "backbone.conv1.weight"}
    for wrong, *facts in (
        (without, "backbone.conv1.weight"),
        ({**weights, "extra.weight": np.zeros(1)}, "extra.weight"),
        ({**weights, "heads.conf.0.bias": np.zeros(7)}, "heads.conf.0.bias", "(7,)", "(16,)"),
    ):
        with refused(CheckpointError, "a file", *facts):
            load_weights(model, wrong, source="a file")
