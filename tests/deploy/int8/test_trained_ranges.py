"""Checkpoints of quantization-aware training carry the steps that they were trained with."""

import dataclasses

import pytest

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.int8.plan import QuantizeOptions, choose_steps
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.errors import CheckpointError, OptionError
from ssd34.files.checkpoint import read_checkpoint
from tests.support.refusals import refused

PERCENTILE = QuantizeOptions(ranges="percentile", percentile=99.5, bias_correction=False)
TRAINED = PERCENTILE.replace(ranges="trained")


@pytest.fixture(scope="module")
def steps(tiny_network, tiny_statistics):
    values = choose_steps(tiny_network, tiny_statistics, ranges="percentile", percentile=99.5)
    return {name: [float(v.scale), int(v.zero_point)] for name, v in values.items()}


def noted(checkpoint, steps):
    return dataclasses.replace(checkpoint, state={"notes": {NOTE_INT8_STEPS: steps}})


def test_they_survive_the_file_and_make_the_same_int8_network(
    tiny_checkpoint, tiny_statistics, steps, tmp_path
):
    noted(tiny_checkpoint, steps).save(tmp_path / "qat.safetensors")
    network = make_network(read_checkpoint(tmp_path / "qat.safetensors"))
    trained = quantize_network(network, tiny_statistics, TRAINED)
    usual = quantize_network(network, tiny_statistics, PERCENTILE)
    assert trained.graph.SerializeToString() == usual.graph.SerializeToString()
    other = quantize_network(network, tiny_statistics, PERCENTILE.replace(ranges="minmax"))
    assert trained.graph.SerializeToString() != other.graph.SerializeToString()


def test_without_them_the_way_to_get_them_is_named(tiny_network, tiny_statistics):
    with refused(OptionError, "ssd34 train --qat"):
        quantize_network(tiny_network, tiny_statistics, TRAINED)


@pytest.mark.parametrize(
    "change",
    [
        lambda steps: {**steps, "image": [float("nan"), 0]},
        lambda steps: {**steps, "image": [0.0, 0]},
        lambda steps: {**steps, "image": [0.1, 256]},
        lambda steps: {**steps, "image": 0.1},
        lambda steps: {**steps, "backbone.conv9": [0.1, 0]},
        lambda steps: {n: v for n, v in steps.items() if n != "image"},
        lambda steps: list(steps),
    ],
)
def test_broken_notes_are_refused(tiny_checkpoint, steps, change):
    with refused(CheckpointError, NOTE_INT8_STEPS):
        make_network(noted(tiny_checkpoint, change(steps)))


def test_other_notes_are_none_of_its_business(tiny_checkpoint):
    other = dataclasses.replace(tiny_checkpoint, state={"notes": {"init": "x"}, "step": 3})
    assert make_network(other).trained == {}
