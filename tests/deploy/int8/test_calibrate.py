import dataclasses

import numpy as np
import pytest

from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.layers import CONV, IMAGE, Conv, Layer, network_of
from ssd34.deploy.int8.calibrate import (
    Statistics,
    calibrate,
    float_outputs,
    head_values,
    window_means,
)
from ssd34.errors import ImageError, ModelError, OptionError
from ssd34.images.read import read_image
from tests.conftest import EXAMPLES

PICTURES = [read_image(EXAMPLES / f"{name}.jpg") for name in ("astronaut", "coffee")]


@pytest.fixture(scope="module")
def network(tiny_checkpoint):
    return network_of(tiny_checkpoint)


def test_one_pass_sees_every_value(network):
    seen: list[int] = []
    statistics = calibrate(network, iter(PICTURES), progress=seen.append)
    assert seen == [1, 2]
    assert statistics.pictures == 2
    assert set(statistics.histograms) == {IMAGE, *network.by_name}
    run = float_outputs(network)
    for name, histogram in statistics.histograms.items():
        both = np.stack([dict(run(preprocess(p, 64)))[name] for p in PICTURES])
        assert histogram.total == both.size
        assert (histogram.smallest, histogram.largest) == (both.min(), both.max())
    statistics.check_network(network)


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
    found = np.einsum("oikl,ikl->o", weight, window_means(x, layer))
    np.testing.assert_allclose(found, output.numpy()[0].mean(axis=(1, 2)), atol=1e-4)


def test_what_of_the_heads_decides_on_detections():
    """Two boxes in two cells; one of four is likely an object, one hardly, two are background."""
    channels, boxes = 3, 2
    logits = np.full((channels, boxes, 1, 2), -50.0, np.float32)
    logits[0] = 5.0
    logits[2, 1, 0, 0] = 6.0
    logits[1, 0, 0, 1] = 5.0 - np.log(60)
    offsets = np.arange(4 * boxes * 2, dtype=np.float32).reshape(4, boxes, 1, 2)
    highest, likely = head_values(
        offsets.reshape(1, 4 * boxes, 1, 2), logits.reshape(1, channels * boxes, 1, 2)
    )
    assert sorted(highest) == [5, 5, 5, 6]
    assert likely.shape == (4, 2)
    assert (likely[:, 0] == offsets[:, 0, 0, 1]).all()
    assert (likely[:, 1] == offsets[:, 1, 0, 0]).all()


def test_statistics_travel_through_a_file(network, tmp_path):
    statistics = calibrate(network, PICTURES[:1])
    statistics.save(tmp_path / "calibration.npz")
    read = Statistics.load(tmp_path / "calibration.npz")
    assert (read.network, read.pictures) == (statistics.network, 1)
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


def test_files_that_are_no_calibration(network, tmp_path):
    with pytest.raises(ModelError, match="no such calibration file"):
        Statistics.load(tmp_path / "x.npz")
    calibrate(network, PICTURES[:1]).save(tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("not a zip")
    damaged = bytearray(data)
    middle = len(data) // 3
    damaged[middle : middle + 64] = bytes(64)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    np.savez(tmp_path / "other.npz", format=np.array("ssd34-calibration-0"))
    np.savez(tmp_path / "pickle.npz", format=np.array([{}], object))
    for name in ("half", "text", "damaged", "other", "pickle"):
        with pytest.raises(ModelError, match=f"{name}.npz: not a calibration of ssd34"):
            Statistics.load(tmp_path / f"{name}.npz")


def test_no_pictures_and_pictures_that_are_none(network):
    with pytest.raises(OptionError, match="needs at least one picture, got none"):
        calibrate(network, [])
    with pytest.raises(ImageError, match="expected a picture of shape"):
        calibrate(network, [np.zeros((4, 4), np.uint8)])


def test_activations_that_overflow(network):
    first = network.layers[0]
    huge = Conv(first.arrays.weight * np.float32(1e38), first.arrays.bias)
    broken = dataclasses.replace(
        network, layers=(dataclasses.replace(first, conv=huge), *network.layers[1:])
    )
    with pytest.raises(
        ModelError, match=r"layer1\.0\.conv1 is not finite for calibration picture 1"
    ):
        calibrate(broken, PICTURES)
