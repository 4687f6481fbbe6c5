import numpy as np
import pytest

from ssd34.core.boxes import cxcywh_from_xyxy, pairwise_iou, xyxy_from_cxcywh
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.spec import named_spec
from ssd34.train.matcher import IGNORED, match
from tests.golden import assert_golden, drawn_inputs

SPEC = named_spec("ssd300-resnet34")
DEFAULTS = default_boxes_cxcywh(SPEC)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_equal_to_the_independent_implementation(number):
    drawn = drawn_inputs(SPEC)
    assert_golden(drawn.boxes[number], "ssd300", f"gt{number}_boxes", atol=0)
    matches = match(drawn.boxes[number], drawn.labels[number], default_boxes_cxcywh=DEFAULTS)
    assert_golden(matches.labels, "ssd300", f"enc{number}_labels", atol=0)
    assert_golden(matches.boxes_cxcywh, "ssd300", f"enc{number}_boxes", atol=1e-6)


def test_every_object_claims_a_default_box_however_small():
    speck = np.array([[0.5, 0.5, 0.503, 0.503]], np.float32)
    matches = match(speck, np.array([7]), default_boxes_cxcywh=DEFAULTS)
    claimed = np.flatnonzero(matches.labels == 7)
    assert len(claimed) == 1
    iou = pairwise_iou(speck, xyxy_from_cxcywh(DEFAULTS).astype(np.float32))[0]
    assert claimed[0] == iou.argmax()
    np.testing.assert_allclose(matches.boxes_cxcywh[claimed], cxcywh_from_xyxy(speck))


def test_ignored_boxes_are_neither_objects_nor_background():
    crowd = np.array([[0.1, 0.1, 0.6, 0.6]], np.float32)
    nothing = np.zeros((0, 4), np.float32)
    matches = match(
        nothing, np.zeros(0, np.int64), default_boxes_cxcywh=DEFAULTS, ignored_boxes=crowd
    )
    iou = pairwise_iou(crowd, xyxy_from_cxcywh(DEFAULTS).astype(np.float32))[0]
    assert ((matches.labels == IGNORED) == (iou > 0.5)).all()
    assert (iou > 0.5).any()
    with_object = match(crowd, np.array([1]), default_boxes_cxcywh=DEFAULTS, ignored_boxes=crowd)
    assert (with_object.labels[iou > 0.5] == 1).all()


def test_no_objects_is_all_background():
    nothing = np.zeros((0, 4), np.float32)
    matches = match(nothing, np.zeros(0, np.int64), default_boxes_cxcywh=DEFAULTS)
    assert not matches.labels.any()
    assert np.array_equal(matches.boxes_cxcywh, DEFAULTS)
