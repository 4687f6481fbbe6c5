"""Matching and tolerances on cases computed by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.postprocess import ZOO, Picked
from ssd34.deploy.publish.compare_outputs import (
    FLOAT,
    INT8,
    Pair,
    compare_detections,
    compare_raw,
    paired,
    tail_policy,
    tolerance_of,
)
from tests.support.refusals import assert_facts

UNIT = (0, 0, 1, 1)
TENTH_RIGHT = (0.1, 0, 1.1, 1)  # IoU with UNIT: 0.9 / 1.1 = 0.8182
BELOW = (0, 2, 1, 3)  # IoU with UNIT: 0


def picked(*detections):
    """Detections of (label, score, box)."""
    labels, scores, boxes = zip(*detections, strict=True) if detections else ((), (), ())
    return Picked(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, np.float32),
    )


def compare(recorded, replayed, *, tolerance=FLOAT, policy=ZOO):
    return compare_detections(recorded, replayed, tolerance=tolerance, policy=policy)


def spread(count, *, label=1, score=0.9):
    """Detections that do not overlap."""
    return [(label, score, (0, 2 * k, 1, 2 * k + 1)) for k in range(count)]


# --- pairs ----------------------------------------------------------------------------------


def test_pairs_have_one_class_and_overlap():
    recorded = picked((1, 0.9, UNIT), (2, 0.8, UNIT), (3, 0.7, BELOW))
    replayed = picked((2, 0.8, UNIT), (3, 0.7, UNIT), (1, 0.9, TENTH_RIGHT))
    same, moved = paired(recorded, replayed, least_iou=0.8)
    assert same == Pair(1, 0, 1.0)
    assert (moved.recorded, moved.replayed) == (0, 2)
    assert moved.iou == pytest.approx(0.9 / 1.1)
    assert paired(recorded, replayed, least_iou=0.82) == [Pair(1, 0, 1.0)]


def test_the_largest_overlap_first():
    """The better scored may not take the other's partner."""
    recorded = picked((1, 0.9, TENTH_RIGHT), (1, 0.8, UNIT))
    replayed = picked((1, 0.8, UNIT))
    assert paired(recorded, replayed, least_iou=0.5) == [Pair(1, 0, 1.0)]


def test_equal_boxes_are_paired_by_score():
    recorded = picked((1, 0.6, UNIT), (1, 0.9, UNIT))
    replayed = picked((1, 0.9, UNIT), (1, 0.6, UNIT))
    assert paired(recorded, replayed, least_iou=0.5) == [Pair(1, 0, 1.0), Pair(0, 1, 1.0)]


def test_a_box_without_area_is_the_same_as_itself():
    flat = (0.5, 0.5, 0.5, 0.7)
    assert paired(picked((1, 0.9, flat)), picked((1, 0.9, flat)), least_iou=1) == [Pair(0, 0, 1.0)]
    other = (0.5, 0.5, 0.5, 0.8)
    assert not paired(picked((1, 0.9, flat)), picked((1, 0.9, other)), least_iou=0.1)


def test_no_detections():
    some = picked((1, 0.9, UNIT))
    for a, b in ((picked(), picked()), (some, picked()), (picked(), some)):
        assert paired(a, b, least_iou=0.5) == []
    assert compare(picked(), picked()).mismatches == ()


# --- detections -----------------------------------------------------------------------------


def test_order_does_not_matter():
    detections = spread(6) + spread(6, label=2)
    found = compare(picked(*detections), picked(*reversed(detections)))
    assert found.mismatches == ()
    assert_facts(found.summary, "12 of 12", "0 others", "1.0000")


@pytest.mark.parametrize(
    ("tolerance", "difference", "good"),
    [(FLOAT, 0.0009, True), (FLOAT, 0.0011, False), (INT8, 0.049, True), (INT8, 0.051, False)],
)
def test_scores(tolerance, difference, good):
    recorded = picked((1, 0.7, BELOW), (1, 0.8, UNIT))
    replayed = picked((1, 0.7, BELOW), (1, 0.8 - difference, UNIT))
    found = compare(recorded, replayed, tolerance=tolerance)
    assert (found.mismatches == ()) is good
    assert_facts(found.summary, f"{difference:.2g}")
    if not good:
        (line,) = found.mismatches
        assert_facts(line, "label 1", "0.8000", "[0.000 0.000 1.000 1.000]")


@pytest.mark.parametrize(
    ("tolerance", "height", "good"),
    [(FLOAT, 0.991, True), (FLOAT, 0.989, False), (INT8, 0.901, True), (INT8, 0.899, False)],
)
def test_boxes(tolerance, height, good):
    """A box (0, 0, 1, height) has that IoU with the unit square."""
    others = spread(2, label=2)
    recorded = picked((1, 0.8, UNIT), (1, 0.7, BELOW), *others)
    replayed = picked((1, 0.8, (0, 0, 1, height)), (1, 0.7, (0, 2, 1, 2 + height)), *others)
    found = compare(recorded, replayed, tolerance=tolerance)
    assert (found.mismatches == ()) is good
    assert len(found.mismatches) == (0 if good else 4)  # two not found, two not recorded
    assert f"{height:.4f}" in (found.summary if good else found.mismatches[0])


def test_a_label_that_changed_is_named():
    missing, extra = compare(
        picked((1, 0.8, UNIT), (1, 0.7, BELOW)), picked((2, 0.8, UNIT), (1, 0.7, BELOW))
    ).mismatches
    assert_facts(missing, "label 1", "not found", "0.0000", "label 2 1.0000")
    assert_facts(extra, "label 2", "0.8000", "not recorded")


def test_missing_and_extra():
    many = spread(3)
    (line,) = compare(picked(*many), picked(*many[1:])).mismatches
    assert "not found" in line
    (line,) = compare(picked(*many[1:]), picked(*many)).mismatches
    assert "not recorded" in line


@pytest.mark.parametrize(
    ("tolerance", "score", "good"),
    [(FLOAT, 0.0509, True), (FLOAT, 0.0511, False), (INT8, 0.099, True), (INT8, 0.101, False)],
)
def test_close_to_the_threshold_detections_come_and_go(tolerance, score, good):
    """Threshold 0.05. Two of four, which is more than int8 may lose of certain ones."""
    certain = [(1, 0.9, UNIT), (1, 0.8, BELOW)]
    faint = [(2, score, UNIT), (2, score, BELOW)]
    for a, b in ((certain, certain + faint), (certain + faint, certain)):
        assert (compare(picked(*a), picked(*b), tolerance=tolerance).mismatches == ()) is good


def test_at_the_end_of_a_full_list_detections_come_and_go():
    policy = ZOO.replace(max_detections=3)
    certain = [(1, 0.9, UNIT), (1, 0.8, BELOW)]
    one, other = (2, 0.5004, UNIT), (2, 0.5, BELOW)
    a, b = picked(*certain, one), picked(*certain, other)
    assert compare(a, b, policy=policy).mismatches == ()
    assert len(compare(a, b, policy=policy.replace(max_detections=4)).mismatches) == 2
    higher = picked(*certain, (2, 0.502, UNIT))
    assert compare(higher, b, policy=policy).mismatches == ()  # its own list is full at 0.502
    missing = picked((1, 0.8, BELOW), one, other)
    assert len(compare(a, missing, policy=policy).mismatches) == 1  # 0.9 is certain


def test_half_has_to_be_found_all_the_same():
    """Nothing is certain at the end of a full list of equal scores."""
    policy = ZOO.replace(max_detections=4)
    recorded = picked(*spread(4))
    good = picked(*spread(2), *spread(2, label=2))
    bad = picked(*spread(1), *spread(3, label=2))
    assert compare(recorded, good, policy=policy).mismatches == ()
    (line,) = compare(recorded, bad, policy=policy).mismatches
    assert "1 of 4" in line


@pytest.mark.parametrize(("count", "allowed"), [(100, 2), (149, 2), (150, 3), (10, 1)])
def test_int8_may_lose_two_in_a_hundred_or_one(count, allowed):
    """2 % of 149 are 2 still, of 10 none: then one."""
    many = spread(count)
    for lost, good in ((allowed, True), (allowed + 1, False)):
        found = compare(picked(*many), picked(*many[lost:]), tolerance=INT8)
        assert (found.mismatches == ()) is good
        assert len(found.mismatches) == (0 if good else lost)
        other = picked(*many[lost:], *spread(lost, label=2))
        found = compare(picked(*many), other, tolerance=INT8)
        assert len(found.mismatches) == (0 if good else 2 * lost)


def test_int8_may_not_lose_the_only_one():
    one = picked((1, 0.9, UNIT))
    (line,) = compare(one, picked(), tolerance=INT8).mismatches
    assert "0 of 1" in line


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value):
    good, bad = picked((1, 0.9, UNIT)), picked((1, 0.9, (0, 0, 1, value)))
    for one, other, which in ((good, bad, "replayed"), (bad, good, "recorded")):
        (line,) = compare(one, other).mismatches
        assert which in line
    assert compare(good, picked((1, value, UNIT))).mismatches


# --- raw outputs ----------------------------------------------------------------------------


def test_raw_outputs():
    recorded = np.zeros((1, 4, 25), np.float32)
    replayed = recorded.copy()
    replayed[0, 2, 7] = 0.0009
    found = compare_raw("loc", recorded, replayed, tolerance=FLOAT)
    assert found.mismatches == ()
    assert_facts(found.summary, "loc", "0.0009")
    replayed[0, 3, 8] = -0.0011
    (line,) = compare_raw("loc", recorded, replayed, tolerance=FLOAT).mismatches
    assert_facts(line, "0.0011", "[0, 3, 8]", "1 of 100")


def test_raw_int8_outputs_may_have_two_in_a_hundred_beyond():
    recorded = np.zeros(100, np.float32)
    replayed = np.full(100, 0.49, np.float32)
    for beyond, good in ((0, True), (2, True), (3, False)):
        replayed[:beyond] = 7
        found = compare_raw("conf", recorded, replayed, tolerance=INT8)
        assert (found.mismatches == ()) is good


def test_raw_outputs_of_another_shape_or_without_numbers():
    recorded = np.zeros((1, 4), np.float32)
    (line,) = compare_raw("x", recorded, np.zeros((2, 4), np.float32), tolerance=FLOAT).mismatches
    assert_facts(line, "x", "[2, 4]", "[1, 4]")
    for values in ((recorded, recorded * np.nan), (recorded * np.nan, recorded * np.nan)):
        assert len(compare_raw("x", *values, tolerance=INT8).mismatches) == 1


# --- what holds for a graph -----------------------------------------------------------------


def graph(*nodes, outputs=(), initializer=()):
    return helper.make_graph(list(nodes), "g", [], list(outputs), initializer=list(initializer))


@pytest.mark.parametrize(
    ("operator", "tolerance"),
    [
        ("Conv", FLOAT),
        ("Cast", FLOAT),
        ("QuantizeLinear", INT8),
        ("DequantizeLinear", INT8),
        ("QLinearConv", INT8),
        ("QLinearAdd", INT8),
        ("ConvInteger", INT8),
    ],
)
def test_tolerance_of_a_graph(operator, tolerance):
    nodes = [helper.make_node(name, ["x"], ["y"]) for name in ("Relu", operator)]
    assert tolerance_of(graph(*nodes)) is tolerance


def test_policy_of_a_graph():
    node = helper.make_node("NonMaxSuppression", ["b", "s", "k", "iou", "t"], ["y"])
    threshold = numpy_helper.from_array(np.array([0.25], np.float32), "t")
    most = numpy_helper.from_array(np.array([70], np.float32), "tail.max_detections")
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 30])
    free = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "nbox"])
    assert tail_policy(graph()) == ZOO
    assert tail_policy(graph(node)) == ZOO
    assert tail_policy(graph(node, initializer=[threshold])).score_threshold == 0.25
    assert tail_policy(graph(outputs=[free], initializer=[most])).max_detections == 70
    assert tail_policy(graph(outputs=[scores], initializer=[most])).max_detections == 30
