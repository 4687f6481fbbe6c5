import numpy as np
import pytest

from ssd34.core.boxes import xyxy_from_cxcywh
from ssd34.core.default_boxes import decode, default_boxes_cxcywh, encode
from ssd34.core.spec import named_spec
from tests.support.golden import assert_golden


@pytest.mark.parametrize("network", ["ssd300", "ssd1200"])
def test_equal_to_the_independent_implementation(network):
    boxes = default_boxes_cxcywh(named_spec(f"{network}-resnet34"))
    assert boxes.dtype == np.float32
    assert_golden(boxes, network, "dboxes_cxcywh", atol=1e-6)


def test_offsets_of_one_box_by_hand():
    default = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    box = np.array([[0.52, 0.46, 0.4, 0.4]], np.float32)
    expected = [[0.02 / 0.2 / 0.1, -0.04 / 0.4 / 0.1, np.log(2) / 0.2, 0]]
    np.testing.assert_allclose(encode(box, default), expected, atol=2e-6)


def test_decode_undoes_encode():
    defaults = default_boxes_cxcywh(named_spec("ssd300-resnet34"))
    boxes = np.random.default_rng(2).uniform(0.05, 1, defaults.shape).astype(np.float32)
    offsets = encode(boxes, defaults)
    decoded = decode(offsets.T, defaults)
    assert offsets.dtype == decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, xyxy_from_cxcywh(boxes), atol=2e-6)
