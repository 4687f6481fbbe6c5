"""The list of layers against the modules that torch trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ssd34.core.spec import SPECS
from ssd34.deploy.graph.layers import CONV, IMAGE, MAXPOOL, list_layers, make_network
from ssd34.errors import CheckpointError, ModelError
from ssd34.network.rounded import FakeQuantizedSSD, Steps
from ssd34.network.ssd import SSD
from tests.conftest import tiny_spec
from tests.support.refusals import refused

ALL = [*SPECS.values(), *(s.replace(head_norm=True) for s in SPECS.values()), tiny_spec()]


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: f"{spec.name}-{spec.head_norm}")
def test_its_convolutions_and_norms_are_those_of_torch(spec):
    """And each layer comes after those that it reads."""
    with torch.device("meta"):
        modules = dict(SSD(spec).named_modules())
    convs = {name: m for name, m in modules.items() if isinstance(m, nn.Conv2d)}
    norms = {name: m for name, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    known = {IMAGE}
    for layer in list_layers(spec):
        assert known.issuperset(layer.inputs) and layer.name not in known
        known.add(layer.name)
        if layer.kind != CONV:
            continue
        conv = convs.pop(layer.stored)
        assert (conv.out_channels, conv.in_channels) == layer.channels
        assert conv.kernel_size == (layer.kernel,) * 2
        assert conv.stride == (layer.stride,) * 2
        assert conv.padding == (layer.padding,) * 2
        assert (conv.bias is None) == (layer.norm is not None)
        if layer.norm is not None:
            assert norms.pop(layer.norm).num_features == conv.out_channels
    assert not convs and not norms


def test_quantization_aware_training_rounds_the_same_values():
    spec = tiny_spec()
    names = {IMAGE, *(layer.name for layer in list_layers(spec) if layer.kind != MAXPOOL)}
    steps = dict.fromkeys(names, Steps(0.1, 0))
    with torch.device("meta"):
        FakeQuantizedSSD(spec, steps)
        for name in names:
            with refused(CheckpointError, name):
                FakeQuantizedSSD(spec, {n: v for n, v in steps.items() if n != name})


@pytest.mark.parametrize(
    "name",
    ["backbone.conv1.weight", "backbone.bn1.running_var", "extras.1.norm2.bias",
     "heads.loc.0.bias"],
)  # fmt: skip
def test_arrays_of_another_shape_are_named(tiny_checkpoint, name):
    short = tiny_checkpoint.weights[name][:-1]
    with refused(CheckpointError, name, short.shape[0]):
        make_network(replace(tiny_checkpoint, weights={**tiny_checkpoint.weights, name: short}))


def test_a_checkpoint_that_is_not_finite_is_no_network(tiny_checkpoint):
    name = "heads.conf.1.bias"
    infinite = np.full_like(tiny_checkpoint.weights[name], np.inf)
    with refused(ModelError, "heads.conf.1"):
        make_network(replace(tiny_checkpoint, weights={**tiny_checkpoint.weights, name: infinite}))
