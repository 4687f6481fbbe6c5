"""Matching and tolerances on cases computed by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd34.core.postprocess import ZOO, Picked
from ssd34.deploy.graph.tail import read_tail_policy
from ssd34.deploy.publish.compare_outputs import (
    FLOAT,
    INT8,
    Pair,
    choose_tolerance,
    compare_detections,
    compare_raw,
    pair_detections,
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
    same, moved = pair_detections(recorded, replayed, least_iou=0.8)
    assert same == Pair(1, 0, 1.0)
    assert (moved.recorded, moved.replayed) == (0, 2)
    assert moved.iou == pytest.approx(0.9 / 1.1)
    assert pair_detections(recorded, replayed, least_iou=0.82) == [Pair(1, 0, 1.0)]


def test_the_largest_overlap_first_then_the_score():
    """The better scored may not take the other's partner."""
    recorded = picked((1, 0.9, TENTH_RIGHT), (1, 0.8, UNIT))
    assert pair_detections(recorded, picked((1, 0.8, UNIT)), least_iou=0.5) == [Pair(1, 0, 1.0)]
    recorded, replayed = (
        picked((1, 0.6, UNIT), (1, 0.9, UNIT)),
        picked((1, 0.9, UNIT), (1, 0.6, UNIT)),
    )
    assert pair_detections(recorded, replayed, least_iou=0.5) == [Pair(1, 0, 1.0), Pair(0, 1, 1.0)]


def test_boxes_without_area_and_no_boxes():
    flat, other = picked((1, 0.9, (0.5, 0.5, 0.5, 0.7))), picked((1, 0.9, (0.5, 0.5, 0.5, 0.8)))
    assert pair_detections(flat, flat, least_iou=1) == [Pair(0, 0, 1.0)]
    for a, b in ((flat, other), (picked(), picked()), (flat, picked()), (picked(), flat)):
        assert pair_detections(a, b, least_iou=0.1) == []
    assert compare(picked(), picked()).mismatches == ()


# --- detections -----------------------------------------------------------------------------


CERTAIN = [(1, 0.9, UNIT), (1, 0.8, BELOW)]


def faint(score):
    """Two that lie close to the threshold of 0.05, which are more than int8 may lose otherwise."""
    return [*CERTAIN, (2, score, UNIT), (2, score, BELOW)]


def taller(height):
    """Two of four boxes whose IoU with those of height 1 is this height."""
    heights = [(1, 0.8, (0, 0, 1, height)), (1, 0.7, (0, 2, 1, 2 + height))]
    return [*heights, *spread(2, label=2)]


def scored(score):
    return [(1, 0.7, BELOW), (1, score, UNIT)]


@pytest.mark.parametrize(
    ("recorded", "replayed", "tolerance", "mismatches", "facts"),
    [
        (spread(6) + spread(6, label=2), [*reversed(spread(6) + spread(6, label=2))], FLOAT, 0,
         ["12 of 12", "0 others", "1.0000"]),
        (scored(0.8), scored(0.7991), FLOAT, 0, ["0.0009"]),
        (scored(0.8), scored(0.7989), FLOAT, 1,
         ["0.0011", "label 1", "0.8000", "[0.000 0.000 1.000 1.000]"]),
        (scored(0.8), scored(0.751), INT8, 0, ["0.049"]),
        (scored(0.8), scored(0.749), INT8, 1, ["0.051"]),
        # Where boxes moved, as many are not found as are not recorded.
        (taller(1), taller(0.991), FLOAT, 0, ["0.9910"]),
        (taller(1), taller(0.989), FLOAT, 4, ["0.9890"]),
        (taller(1), taller(0.901), INT8, 0, ["0.9010"]),
        (taller(1), taller(0.899), INT8, 4, ["0.8990"]),
        (CERTAIN, [(2, 0.9, UNIT), *CERTAIN[1:]], FLOAT, 2,
         ["label 1", "not found", "0.0000", "label 2 1.0000", "not recorded"]),
        (spread(3), spread(3)[1:], FLOAT, 1, ["not found"]),
        (spread(3)[1:], spread(3), FLOAT, 1, ["not recorded"]),
        # Close to the threshold of 0.05 they come and go.
        *(case for tolerance, near, far in ((FLOAT, 0.0509, 0.0511), (INT8, 0.099, 0.101))
          for case in ((CERTAIN, faint(near), tolerance, 0, [""]),
                       (faint(near), CERTAIN, tolerance, 0, [""]),
                       (CERTAIN, faint(far), tolerance, 2, [""]),
                       (faint(far), CERTAIN, tolerance, 2, [""]))),
        # int8 may lose two in a hundred, or one: 2 % of 149 are 2 still, of 10 none.
        *(case for count, lost in ((100, 2), (149, 2), (150, 3), (10, 1))
          for case in ((spread(count), spread(count)[lost:], INT8, 0, [""]),
                       (spread(count), spread(count)[lost + 1 :], INT8, lost + 1, [""]),
                       (spread(count), spread(count)[lost:] + spread(lost, label=2), INT8, 0, [""]),
                       (spread(count), spread(count)[lost + 1 :] + spread(lost + 1, label=2), INT8,
                        2 * lost + 2, [""]))),
        (spread(1), [], INT8, 1, ["0 of 1"]),
    ],
)  # fmt: skip
def test_how_far_detections_may_differ(recorded, replayed, tolerance, mismatches, facts):
    found = compare(picked(*recorded), picked(*replayed), tolerance=tolerance)
    assert len(found.mismatches) == mismatches
    assert_facts("\n".join((*found.mismatches, found.summary)), *facts)


def test_at_the_end_of_a_full_list_detections_come_and_go():
    policy = ZOO.replace(max_detections=3)
    one, other = (2, 0.5004, UNIT), (2, 0.5, BELOW)
    a, b = picked(*CERTAIN, one), picked(*CERTAIN, other)
    assert compare(a, b, policy=policy).mismatches == ()
    assert len(compare(a, b, policy=policy.replace(max_detections=4)).mismatches) == 2
    higher = picked(*CERTAIN, (2, 0.502, UNIT))
    assert compare(higher, b, policy=policy).mismatches == ()  # its own list is full at 0.502
    missing = picked((1, 0.8, BELOW), one, other)
    assert len(compare(a, missing, policy=policy).mismatches) == 1  # 0.9 is certain
    # Half has to be found all the same, where nothing is certain: a full list of equal scores.
    policy = ZOO.replace(max_detections=4)
    for kept, mismatches in ((2, 0), (1, 1)):
        replayed = picked(*spread(kept), *spread(4 - kept, label=2))
        found = compare(picked(*spread(4)), replayed, policy=policy).mismatches
        assert len(found) == mismatches and all(f"{kept} of 4" in line for line in found)


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


def test_raw_outputs_with_values_beyond():
    recorded = np.zeros(100, np.float32)
    replayed = np.full(100, 0.49, np.float32)
    for beyond, good in ((0, True), (2, True), (3, False)):  # int8: two in a hundred
        replayed[:beyond] = 7
        found = compare_raw("conf", recorded, replayed, tolerance=INT8)
        assert (found.mismatches == ()) is good
    one = np.zeros((1, 4), np.float32)
    (line,) = compare_raw("x", one, np.zeros((2, 4), np.float32), tolerance=FLOAT).mismatches
    assert_facts(line, "x", "[2, 4]", "[1, 4]")
    for values in ((one, one * np.nan), (one * np.nan, one * np.nan)):
        assert len(compare_raw("x", *values, tolerance=INT8).mismatches) == 1


# --- what holds for a graph -----------------------------------------------------------------


def graph(*nodes, outputs=(), initializer=()):
    return helper.make_graph(list(nodes), "g", [], list(outputs), initializer=list(initializer))


@pytest.mark.parametrize(
    ("operator", "tolerance"),
    [("Conv", FLOAT), ("Cast", FLOAT),
     *((name, INT8) for name in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearAdd",
                                 "ConvInteger"))],
)  # fmt: skip
def test_tolerance_of_a_graph(operator, tolerance):
    nodes = [helper.make_node(name, ["x"], ["y"]) for name in ("Relu", operator)]
    assert choose_tolerance(graph(*nodes)) is tolerance


def test_policy_of_a_graph():
    node = helper.make_node("NonMaxSuppression", ["b", "s", "k", "iou", "t"], ["y"])
    threshold = numpy_helper.from_array(np.array([0.25], np.float32), "t")
    most = numpy_helper.from_array(np.array([70], np.float32), "tail.max_detections")
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 30])
    free = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "nbox"])
    assert read_tail_policy(graph()) == ZOO
    assert read_tail_policy(graph(node)) == ZOO
    assert read_tail_policy(graph(node, initializer=[threshold])).score_threshold == 0.25
    assert read_tail_policy(graph(outputs=[free], initializer=[most])).max_detections == 70
    assert read_tail_policy(graph(outputs=[scores], initializer=[most])).max_detections == 30
