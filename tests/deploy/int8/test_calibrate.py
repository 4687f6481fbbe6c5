import dataclasses

import numpy as np
import pytest

from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.layers import CONV, IMAGE, Conv, Layer
from ssd34.deploy.int8.calibrate import (
    CalibrationStatistics,
    calibrate,
    compute_window_means,
    pick_head_values,
    prepare_float_run,
)
from ssd34.errors import ImageError, ModelError, OptionError
from ssd34.images.read import read_image
from tests.conftest import EXAMPLES
from tests.support.refusals import refused

PICTURES = [read_image(EXAMPLES / f"{name}.jpg") for name in ("astronaut", "coffee")]


def test_one_pass_sees_every_value(tiny_network):
    seen: list[int] = []
    statistics = calibrate(tiny_network, iter(PICTURES), progress=seen.append)
    assert seen == [1, 2]
    assert statistics.pictures == 2
    assert set(statistics.histograms) == {IMAGE, *tiny_network.by_name}
    run = prepare_float_run(tiny_network)
    one, other = (
        {name: (values.size, values.min(), values.max()) for name, values in run(preprocess(p, 64))}
        for p in PICTURES
    )
    for name, histogram in statistics.histograms.items():
        (size, low, high), (more, lower, higher) = one[name], other[name]
        assert histogram.total == size + more
        assert (histogram.smallest, histogram.largest) == (min(low, lower), max(high, higher))
    statistics.check_network(tiny_network)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(7, 2, 3, 12), (3, 1, 1, 5), (3, 2, 1, 5), (1, 2, 0, 7), (3, 3, 1, 8), (3, 1, 0, 3),
     (3, 2, 1, 1), (7, 2, 3, 1)],
)  # fmt: skip
def test_window_means_are_what_a_convolution_sees(kernel, stride, padding, side):
    """Their product with a weight is the mean of the convolution's output."""
    import torch

    generator = np.random.default_rng(kernel)
    x = generator.normal(1, 1, (4, side, side + 2)).astype(np.float32)
    weight = generator.normal(size=(5, 4, kernel, kernel)).astype(np.float32)
    layer = Layer(
        "x", CONV, (IMAGE,), conv=Conv(weight, np.zeros(5, np.float32)),
        kernel=kernel, stride=stride, padding=padding,
    )  # fmt: skip
    output = torch.nn.functional.conv2d(
        torch.from_numpy(x)[None], torch.from_numpy(weight), stride=stride, padding=padding
    )
    found = np.einsum("oikl,ikl->o", weight, compute_window_means(x, layer))
    np.testing.assert_allclose(found, output.numpy()[0].mean(axis=(1, 2)), atol=1e-4)


def test_what_of_the_heads_decides_on_detections():
    """Two boxes in two cells; one of four is likely an object, one hardly, two are background."""
    channels, boxes = 3, 2
    logits = np.full((channels, boxes, 1, 2), -50.0, np.float32)
    logits[0] = 5.0
    logits[2, 1, 0, 0] = 6.0
    logits[1, 0, 0, 1] = 5.0 - np.log(60)
    offsets = np.arange(4 * boxes * 2, dtype=np.float32).reshape(4, boxes, 1, 2)
    highest, likely = pick_head_values(
        offsets.reshape(1, 4 * boxes, 1, 2), logits.reshape(1, channels * boxes, 1, 2)
    )
    assert sorted(highest) == [5, 5, 5, 6]
    assert likely.shape == (4, 2)
    assert (likely[:, 0] == offsets[:, 0, 0, 1]).all()
    assert (likely[:, 1] == offsets[:, 1, 0, 0]).all()


def test_statistics_travel_through_a_file(tiny_statistics, tmp_path):
    statistics = tiny_statistics
    statistics.save(tmp_path / "calibration.npz")
    read = CalibrationStatistics.load(tmp_path / "calibration.npz")
    assert (read.network, read.pictures) == (statistics.network, 3)
    assert list(read.histograms) == list(statistics.histograms)
    for kind in ("histograms", "peaks", "candidates"):
        for name, histogram in getattr(statistics, kind).items():
            other = getattr(read, kind)[name]
            assert (histogram.counts == other.counts).all()
            assert (histogram.reach, histogram.smallest, histogram.largest) == (
                other.reach, other.smallest, other.largest,
            )  # fmt: skip
    for name, means in statistics.window_means.items():
        assert (means == read.window_means[name]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.npz"]


def test_files_that_are_no_calibration(tiny_statistics, tmp_path):
    tiny_statistics.save(tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("not a zip")
    damaged = bytearray(data)
    middle = len(data) // 3
    damaged[middle : middle + 64] = bytes(255 - byte for byte in data[middle : middle + 64])
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with np.load(tmp_path / "whole.npz") as whole:
        np.savez(tmp_path / "shapes.npz", **{**whole, "peaks.bounds": np.zeros((1, 2))})
    np.savez(tmp_path / "other.npz", format=np.array("ssd34-calibration-0"))
    np.savez(tmp_path / "pickle.npz", format=np.array([{}], object))
    for name in ("missing", "half", "text", "damaged", "shapes", "other", "pickle"):
        with refused(ModelError, tmp_path / f"{name}.npz"):
            CalibrationStatistics.load(tmp_path / f"{name}.npz")


def test_what_cannot_be_calibrated(tiny_network):
    """No pictures, pictures that are none, and activations that overflow."""
    with refused(OptionError):
        calibrate(tiny_network, [])
    with refused(ImageError):
        calibrate(tiny_network, [np.zeros((4, 4), np.uint8)])
    first = tiny_network.layers[0]
    huge = Conv(first.arrays.weight * np.float32(1e38), first.arrays.bias)
    layers = (dataclasses.replace(first, conv=huge), *tiny_network.layers[1:])
    with refused(ModelError, "layer1.0.conv1", "picture 1"):
        calibrate(dataclasses.replace(tiny_network, layers=layers), PICTURES)
