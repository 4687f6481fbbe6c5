import numpy as np
import pytest

from ssd34.core import boxes
from tests.support.boxes import naive_iou


def random_boxes(generator, count):
    corner = generator.uniform(0, 1, (count, 2))
    return np.concatenate([corner, corner + generator.uniform(0, 0.5, (count, 2))], axis=1)


def test_pairwise_iou_against_one_pair_at_a_time():
    generator = np.random.default_rng(1)
    a, b = random_boxes(generator, 20), random_boxes(generator, 30)
    expected = [[naive_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), expected, rtol=1e-12)


def test_unclamped_iou_counts_boxes_apart_along_both_axes():
    a, b = np.array([[0.0, 0, 1, 1]]), np.array([[2.0, 2, 3, 3]])
    assert boxes.pairwise_iou(a, b)[0, 0] == 0
    # The negative extents -1 and -1 multiply to an "overlap" of 1: 1 / (1 + 1 - 1).
    assert boxes.pairwise_iou(a, b, clamp=False)[0, 0] == 1


def test_coverage_is_a_share_of_the_second_box():
    large, small = np.array([[0.0, 0, 4, 4]]), np.array([[3.0, 0, 5, 2]])
    assert boxes.pairwise_coverage(large, small).tolist() == [[0.5]]
    assert boxes.pairwise_coverage(small, large).tolist() == [[0.125]]
    assert boxes.pairwise_coverage(large, small + 4).tolist() == [[0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_boxes_overlap_nothing_and_dtypes_are_kept(dtype):
    point = np.array([[0.5, 0.5, 0.5, 0.5]], dtype)
    for pairwise in (boxes.pairwise_coverage, boxes.pairwise_iou):
        found = pairwise(point, point)
        assert found[0, 0] == 0 and found.dtype == dtype
        assert pairwise(np.zeros((0, 4), dtype), point).shape == (0, 1)


def test_layouts():
    xyxy = np.array([[1.0, 2, 5, 10]])
    assert boxes.cxcywh_from_xyxy(xyxy).tolist() == [[3, 6, 4, 8]]
    assert boxes.xyxy_from_cxcywh(np.array([[3.0, 6, 4, 8]])).tolist() == xyxy.tolist()
    assert boxes.xywh_from_xyxy(xyxy).tolist() == [[1, 2, 4, 8]]
    assert boxes.xyxy_from_xywh(np.array([[1.0, 2, 4, 8]])).tolist() == xyxy.tolist()
    assert boxes.area(xyxy).tolist() == [32]
    cut = boxes.clip(np.array([[-1, 2, 50, 60]], np.float32), width=40, height=30)
    assert cut.tolist() == [[0, 2, 40, 30]] and cut.dtype == np.float32
