import numpy as np

from ssd34.core import default_boxes as box_coder
from ssd34.core.boxes import xyxy_from_cxcywh
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.spec import named_spec


def test_one_box_by_hand():
    default = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    box = np.array([[0.52, 0.46, 0.4, 0.4]], np.float32)
    expected = [[0.02 / 0.2 / 0.1, -0.04 / 0.4 / 0.1, np.log(2) / 0.2, 0]]
    np.testing.assert_allclose(box_coder.encode(box, default), expected, atol=2e-6)


def test_decode_undoes_encode():
    defaults = default_boxes_cxcywh(named_spec("ssd300-resnet34"))
    generator = np.random.default_rng(2)
    boxes = generator.uniform(0.05, 1, defaults.shape).astype(np.float32)
    offsets = box_coder.encode(boxes, defaults)
    assert offsets.dtype == np.float32
    decoded = box_coder.decode(offsets.T, defaults)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, xyxy_from_cxcywh(boxes), atol=2e-6)
