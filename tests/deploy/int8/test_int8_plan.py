import dataclasses
from typing import Any

import numpy as np
import pytest

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.deploy.graph.layers import IMAGE, Conv, make_network
from ssd34.deploy.int8.plan import (
    QuantizeOptions,
    choose_head_ranges,
    choose_steps,
    plan_int8,
    quantize_weight,
    round_windows,
)
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.deploy.int8.ranges import Histogram, Range
from ssd34.errors import CheckpointError, OptionError
from ssd34.files.checkpoint import read_checkpoint
from tests.support.refusals import refused

GENERATOR = np.random.default_rng(3)


def histogram_of(*values):
    return Histogram.empty().with_values(np.array(values, np.float32))


def plan(network, statistics, *, bytes_input=False, **changes):
    options = QuantizeOptions(percentile=99.9, bias_correction=False).replace(**changes)
    return plan_int8(network, statistics, options, bytes_input=bytes_input)


def test_the_heads_ranges_are_those_of_detections(tiny_network, tiny_statistics):
    conf, loc = ("heads.conf.0", "heads.conf.1"), ("heads.loc.0", "heads.loc.1")
    seen = {conf[0]: (-200.0, 9.0), conf[1]: (-5.0, 9.0), **dict.fromkeys(loc, (-30.0, 8.0))}
    kinds: dict[str, dict[str, Any]] = {
        "histograms": seen,
        "peaks": dict.fromkeys(conf, (-1.0, 9.0)),
        "candidates": {loc[0]: np.linspace(-4, 3, 1000), loc[1]: (-4.0, 3.0)},
    }
    changed = dataclasses.replace(tiny_statistics, **{
        kind: {**getattr(tiny_statistics, kind), **{n: histogram_of(*v) for n, v in values.items()}}
        for kind, values in kinds.items()
    })  # fmt: skip
    found = choose_head_ranges(tiny_network, changed)
    assert found["heads.conf.0"] == Range(-9.0, 9.0)
    assert found["heads.conf.1"] == Range(-5.0, 9.0)  # no more than was seen
    assert found["heads.loc.0"] == Range(-4.0, 3.0)
    assert "heads.loc.1" not in found  # too few to tell
    for method in ("minmax", "percentile", "mse"):
        values = plan(tiny_network, changed, ranges=method).values
        assert values["heads.conf.0"].scale == pytest.approx(18 / 255, rel=0.01)
        assert values["heads.loc.0"].scale == pytest.approx(7 / 255, rel=0.01)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("largest", [64, 127])
def test_weights_are_near_steps_and_windows_keep_their_sum(per_channel, largest):
    weight = GENERATOR.normal(size=(6, 3, 3, 3)).astype(np.float32)
    weight *= np.float32(10.0) ** np.arange(-3, 3).reshape(-1, 1, 1, 1)
    conv = Conv(weight, GENERATOR.normal(size=6).astype(np.float32))
    how = {"per_channel": per_channel, "largest": largest}
    nearest, _ = quantize_weight(conv, np.float32(0.02), keep_sums=False, **how)
    steps, scale = quantize_weight(conv, np.float32(0.02), keep_sums=True, **how)
    assert scale.shape == ((6,) if per_channel else ())
    assert steps.dtype == np.int8
    assert scale.dtype == np.float32
    each = np.broadcast_to(scale, 6).reshape(-1, 1, 1, 1)
    assert (np.abs(steps * each - weight) <= each * 1.0001).all()
    assert (np.abs(nearest * each - weight) <= each / 2 * 1.0001).all()
    # Whole windows are closer than single weights.
    kept = steps.sum(axis=(2, 3), keepdims=True) * each
    window = weight.sum(axis=(2, 3), keepdims=True)
    assert (np.abs(kept - window) <= each / 2 * 1.0001).all()
    reached = np.abs(steps.astype(int)).max(axis=(1, 2, 3))
    assert (reached == largest).sum() == (6 if per_channel else 1)
    assert (np.abs(steps.astype(int)) <= largest).all()


def test_rounding_moves_the_weights_that_lose_least():
    window = np.array([0.4, 0.3, 0.45, -2.2, 0.0, 0.0, 5.0, 1.0, 1.0]).reshape(1, 1, 3, 3)
    assert round_windows(window).ravel().tolist() == [0, 0, 1, -2, 0, 0, 5, 1, 1]
    assert round_windows(-window).ravel().tolist() == [0, 0, -1, 2, 0, 0, -5, -1, -1]
    one = np.array([0.4, -1.6]).reshape(2, 1, 1, 1)
    assert round_windows(one).ravel().tolist() == [0, -2]


def test_few_odd_boxes_do_not_take_the_steps_of_many_classes(tiny_network, tiny_statistics):
    """1 in 2000 boxes has low logits only; with few classes it could look like a detection."""
    peaks = {**tiny_statistics.peaks, "heads.conf.0": histogram_of(-30.0, *[1.0] * 2000)}
    seen = {**tiny_statistics.histograms, "heads.conf.0": histogram_of(-200.0, 9.0)}
    changed = dataclasses.replace(tiny_statistics, histograms=seen, peaks=peaks)
    assert choose_head_ranges(tiny_network, changed)["heads.conf.0"] == Range(-38.0, 9.0)
    many = dataclasses.replace(tiny_network, spec=tiny_network.spec.replace(num_classes=80))
    assert choose_head_ranges(many, changed)["heads.conf.0"].low == pytest.approx(-7, abs=0.01)


def test_bias_correction_takes_the_mean_error_of_rounded_weights_out(
    tiny_network, tiny_statistics, monkeypatch
):
    """On a picture like the calibration's, each channel's mean is right again."""
    monkeypatch.setattr("ssd34.deploy.int8.plan.LARGEST_WEIGHT", 4)
    name = "backbone.conv1"
    layer = tiny_network.by_name[name]
    for bytes_input in (False, True):
        wrong, right = (
            plan(tiny_network, tiny_statistics, bias_correction=corrected, bytes_input=bytes_input)
            for corrected in (False, True)
        )
        conv, value = wrong.convs[name], wrong.values[IMAGE]
        step = conv.scale * value.scale
        errors = []
        for found in (conv, right.convs[name]):
            dequantized = found.weight * conv.scale.reshape(-1, 1, 1, 1)
            # Values of the picture are, on average, those that the convolution saw.
            means = tiny_statistics.window_means[name]
            std = np.array((0.229, 0.224, 0.225)).reshape(3, 1, 1)
            mean = np.array((0.485, 0.456, 0.406)).reshape(3, 1, 1)
            expected = layer.arrays.weight / std if bytes_input else layer.arrays.weight
            seen = means * std + mean if bytes_input else means
            bias = layer.arrays.bias.astype(np.float64)
            if bytes_input:
                bias = bias - (expected * mean).sum(axis=(1, 2, 3))
            error = np.einsum("oikl,ikl->o", dequantized - expected, seen)
            errors.append(np.abs(error + found.bias * step - bias))
        assert errors[0].max() > 10 * step.max()
        assert (errors[1] <= 0.51 * step + 1e-6).all()


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
    [lambda steps: {**steps, "image": [float("nan"), 0]},
     lambda steps: {**steps, "image": [0.0, 0]}, lambda steps: {**steps, "image": [0.1, 256]},
     lambda steps: {**steps, "image": 0.1}, lambda steps: {**steps, "backbone.conv9": [0.1, 0]},
     lambda steps: {n: v for n, v in steps.items() if n != "image"}, lambda steps: list(steps)],
)  # fmt: skip
def test_broken_notes_are_refused(tiny_checkpoint, steps, change):
    with refused(CheckpointError, NOTE_INT8_STEPS):
        make_network(noted(tiny_checkpoint, change(steps)))


def test_other_notes_are_none_of_its_business(tiny_checkpoint):
    other = dataclasses.replace(tiny_checkpoint, state={"notes": {"init": "x"}, "step": 3})
    assert make_network(other).trained == {}
