import numpy as np
import pytest

from ssd34.core.boxes import cxcywh_from_xyxy, pairwise_iou, xyxy_from_cxcywh
from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.spec import named_spec
from ssd34.train.examples.matcher import IGNORED, list_levels, match
from tests.support.golden import assert_golden, drawn_inputs

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


def test_nothing_inside_a_crowd_is_background():
    """However large it is; a default box at a time."""
    crowd = np.array([[0.1, 0.2, 0.9, 0.7]], np.float32)
    nothing = np.zeros((0, 4), np.float32)
    matches = match(
        nothing, np.zeros(0, np.int64), default_boxes_cxcywh=DEFAULTS, crowd_boxes=crowd
    )
    left, top, right, bottom = crowd[0].astype(np.float64)
    expected = []
    for x, y, w, h in DEFAULTS.astype(np.float64):
        width = min(right, x + w / 2) - max(left, x - w / 2)
        height = min(bottom, y + h / 2) - max(top, y - h / 2)
        expected.append(max(0.0, width) * max(0.0, height) / (w * h))
    sure = np.abs(np.array(expected) - 0.5) > 1e-5
    ignored = matches.labels == IGNORED
    assert np.array_equal(ignored[sure], (np.array(expected) > 0.5)[sure])
    centres = DEFAULTS[:, :2]
    deep = ((centres > [0.3, 0.35]) & (centres < [0.7, 0.55])).all(axis=1)
    assert ignored[deep & (DEFAULTS[:, 2:] < 0.3).all(axis=1)].all()
    assert ignored.sum() > 2000
    person = np.array([[0.4, 0.4, 0.5, 0.6]], np.float32)
    matches = match(person, np.array([1]), default_boxes_cxcywh=DEFAULTS, crowd_boxes=crowd)
    assert (matches.labels == 1).any()


def test_no_objects_is_all_background():
    nothing = np.zeros((0, 4), np.float32)
    matches = match(nothing, np.zeros(0, np.int64), default_boxes_cxcywh=DEFAULTS)
    assert not matches.labels.any()
    assert np.array_equal(matches.boxes_cxcywh, DEFAULTS)


def overlap_of(one, other):
    """IoU of two boxes xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


def naive_atss(boxes, labels, spec):
    """The paper's Algorithm 1, an object and a default box at a time; levels from the spec."""
    defaults = default_boxes_cxcywh(spec).astype(np.float64)
    corners = xyxy_from_cxcywh(defaults)
    best = [(0.0, -1)] * len(defaults)
    for number, box in enumerate(boxes.astype(np.float64)):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        chosen = []
        start = 0
        for side, count in zip(spec.feature_sizes, spec.boxes_per_cell, strict=True):
            level = range(start, start + side * side * count)
            far = {k: np.hypot(defaults[k, 0] - x, defaults[k, 1] - y) for k in level}
            chosen += sorted(level, key=lambda k: round(far[k], 6))[: 9 * count]
            start += len(level)
        overlaps = [overlap_of(box, corners[k]) for k in chosen]
        bound = np.mean(overlaps) + np.std(overlaps)
        for k, overlap in zip(chosen, overlaps, strict=True):
            inside = box[0] < defaults[k, 0] < box[2] and box[1] < defaults[k, 1] < box[3]
            if inside and overlap >= bound and overlap > best[k][0]:
                best[k] = (overlap, number)
    return np.array([labels[number] if overlap else 0 for overlap, number in best])


@pytest.mark.parametrize(("seed", "size"), [(0, 96), (1, 96), (2, 96), (3, 96), (4, 300)])
def test_atss_against_the_algorithm_of_the_paper(seed, size):
    """Objects large enough that each fits some default box, off the grid's ties; one of them in
    each corner."""
    spec = SPEC.at_size(size)
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0.02, 0.5, (5, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.45, (5, 2))], axis=1)
    in_corners = []
    for right, bottom in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        w, h = rng.uniform(0.15, 0.3, 2)
        in_corners.append(
            [right * (1 - w), bottom * (1 - h), w + right * (1 - w), h + bottom * (1 - h)]
        )
    boxes = np.concatenate([boxes, in_corners]).astype(np.float32)
    labels = np.arange(1, 10)
    defaults = default_boxes_cxcywh(spec)
    matches = match(boxes, labels, default_boxes_cxcywh=defaults, levels=list_levels(spec))
    expected = naive_atss(boxes, labels, spec)
    assert set(expected) == {0, *labels}
    assert np.array_equal(matches.labels, expected)
    learned = matches.labels > 0
    np.testing.assert_array_equal(
        matches.boxes_cxcywh[learned], cxcywh_from_xyxy(boxes)[matches.labels[learned] - 1]
    )


def test_atss_leaves_no_object_out_and_respects_what_is_ignored():
    speck = np.array([[0.501, 0.501, 0.504, 0.504]], np.float32)
    crowd = np.array([[0.1, 0.1, 0.6, 0.6]], np.float32)
    matches = match(
        speck, np.array([7]), default_boxes_cxcywh=DEFAULTS, ignored_boxes=crowd,
        levels=list_levels(SPEC),
    )  # fmt: skip
    corners = xyxy_from_cxcywh(DEFAULTS).astype(np.float32)
    claimed = np.flatnonzero(matches.labels == 7)
    assert claimed.tolist() == [pairwise_iou(speck, corners)[0].argmax()]
    ignored = pairwise_iou(crowd, corners)[0] > 0.5
    assert ((matches.labels == IGNORED) == ignored).all()
    nothing = np.zeros((0, 4), np.float32)
    empty = match(
        nothing, np.zeros(0, np.int64), default_boxes_cxcywh=DEFAULTS, levels=list_levels(SPEC)
    )
    assert not empty.labels.any()
