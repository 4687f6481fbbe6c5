import numpy as np
import pytest

from ssd34.core.default_boxes import decode, default_boxes_cxcywh
from ssd34.core.postprocess import (
    MLPERF,
    MLPERF_UNCLAMPED,
    ZOO,
    Picked,
    Policy,
    named_policy,
    nms,
    pick,
    postprocess,
    softmax,
)
from ssd34.core.spec import named_spec
from ssd34.errors import OptionError
from tests.support.boxes import naive_iou
from tests.support.golden import assert_golden, drawn_inputs


@pytest.mark.parametrize(("network", "policy"), [("ssd300", MLPERF), ("ssd1200", MLPERF_UNCLAMPED)])
def test_mlperf_policy_equals_the_independent_implementation(network, policy):
    spec = named_spec(f"{network}-resnet34")
    drawn = drawn_inputs(spec)
    picked = postprocess(
        drawn.decode_loc,
        drawn.decode_conf,
        default_boxes_cxcywh=default_boxes_cxcywh(spec),
        policy=policy,
    )
    assert_golden(picked.labels, network, "dec_labels", atol=0)
    assert_golden(picked.scores, network, "dec_scores", atol=1e-6)
    assert_golden(picked.boxes, network, "dec_boxes", atol=1e-6)


def naive_nms(boxes, scores, policy):
    """The definition, one comparison at a time."""
    boxes = boxes.astype(np.float64)
    kept: list[int] = []
    order = sorted(range(len(boxes)), key=lambda k: -scores[k])
    for one in order[: policy.candidates_per_class]:
        overlaps = [naive_iou(boxes[one], boxes[k], clamp=policy.clamp_iou) for k in kept]
        most = max(overlaps, default=-np.inf)
        if most < policy.iou_threshold or (most == policy.iou_threshold and not policy.inclusive):
            kept.append(one)
    return kept[: policy.kept_per_class]


def naive_zoo(boxes, scores):
    """The zoo policy by its numbers."""
    found = []
    for label in range(1, len(scores)):
        above = np.flatnonzero(scores[label] > np.float32(0.05))
        kept = naive_nms(boxes[above], scores[label, above], ZOO)[:200]
        found += [(float(scores[label, above[k]]), label, above[k]) for k in kept]
    return sorted(found, key=lambda entry: -entry[0])[:200]


def test_zoo_policy_against_one_comparison_at_a_time():
    generator = np.random.default_rng(3)
    corner = generator.uniform(0, 0.7, (300, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0.1, 0.3, (300, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = softmax(generator.normal(0, 2, (6, 300)).astype(np.float32))
    picked = pick(boxes, scores, policy=ZOO)
    expected = naive_zoo(boxes, scores)
    assert len(expected) == 200
    assert picked.scores.tolist() == [score for score, _, _ in expected]
    assert picked.labels.tolist() == [label for _, label, _ in expected]
    assert picked.boxes.tolist() == [boxes[anchor].tolist() for _, _, anchor in expected]


HALF = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5]], np.float32)
"""Two boxes that overlap by exactly one half."""


def test_an_overlap_of_exactly_the_threshold():
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(HALF, scores, policy=ZOO).tolist() == [0, 1]
    assert nms(HALF, scores, policy=MLPERF).tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "scores"),
    [({"max_detections": 2}, [0.5, 0.4]), ({"kept_per_class": 3}, [0.5, 0.4, 0.3]),
     ({"candidates_per_class": 1}, [0.5]), ({"worst_first": True}, [0.2, 0.3, 0.4, 0.5])],
)  # fmt: skip
def test_limits(changes, scores):
    apart = np.array([[k, 0, k + 0.5, 1] for k in range(5)], np.float32)
    given = np.array([[0.1] * 5, [0.2, 0.5, 0.3, 0.04, 0.4]], np.float32)
    picked = pick(apart, given, policy=ZOO.replace(**changes))
    assert picked.scores.tolist() == pytest.approx(scores)


def test_neither_background_nor_a_score_of_exactly_the_threshold_counts():
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    for score, count in ((0.01, 0), (0.05, 0), (0.0501, 1)):
        scores = np.array([[1 - score], [score]], np.float32)
        picked = pick(boxes, scores, policy=ZOO)
        assert picked.boxes.shape == (count, 4)
        assert picked.labels.shape == picked.scores.shape == (count,)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize(
    "changes",
    [{}, {"kept_per_class": 5}, {"candidates_per_class": 70}, {"inclusive": True},
     {"clamp_iou": False}, {"iou_threshold": 0.0}, {"iou_threshold": 1.0}],
    ids=str,
)  # fmt: skip
def test_nms_is_greedy_whatever_the_number_of_boxes(count, changes):
    generator = np.random.default_rng(count)
    corners = generator.uniform(0, 0.7, (count, 2))
    extent = generator.uniform(0, 0.4, (count, 2))
    boxes = np.concatenate([corners, corners + extent], axis=1).astype(np.float32)
    boxes[1::7] = boxes[::7][: len(boxes[1::7])]  # the same box twice
    scores = generator.integers(0, 50, count).astype(np.float32) / 50  # with ties
    policy = Policy(name="x").replace(**changes)
    assert nms(boxes, scores, policy=policy).tolist() == naive_nms(boxes, scores, policy)


@pytest.mark.parametrize("threshold", [0, 1e-6, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999999, 1])
def test_boxes_left_out_before_the_softmax_change_nothing(threshold):
    """Against softmax over everything, also for one, two and no promising boxes."""
    generator = np.random.default_rng(7)
    spec = named_spec("ssd300-resnet34")
    policy = ZOO.replace(score_threshold=threshold, max_detections=1000)
    for count in (1, 2, 3, 40, 400):
        priors = default_boxes_cxcywh(spec)[:count]
        loc = generator.normal(0, 0.5, (4, count)).astype(np.float32)
        for shift in (0, 3, 8):
            conf = generator.normal(0, 2, (6, count)).astype(np.float32)
            conf[0] += shift
            ours = postprocess(loc, conf, default_boxes_cxcywh=priors, policy=policy)
            everything = pick(decode(loc, priors), softmax(conf), policy=policy)
            for name in Picked._fields:
                one, other = getattr(ours, name), getattr(everything, name)
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def test_a_score_exactly_as_asked_for_stays():
    boxes = np.array([[0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6]], np.float32)
    scores = np.array([[0, 0], [0.3, 0.29999998]], np.float32)
    assert pick(boxes, scores, policy=ZOO.at_least(0.3)).scores.tolist() == [np.float32(0.3)]
    assert ZOO.at_least(0.01) is ZOO and ZOO.at_least(0.05) is ZOO
    assert ZOO.at_least(2).score_threshold == 1


def test_softmax_of_large_logits_is_finite():
    values = softmax(np.array([[1000.0], [999.0]], np.float32))
    assert values[:, 0] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_bad_policies_are_refused():
    with pytest.raises(OptionError, match=r"'soft'.*zoo"):
        named_policy("soft")
    with pytest.raises(OptionError, match="iou_threshold"):
        Policy(name="x", iou_threshold=2)
    with pytest.raises(OptionError, match="max_detections"):
        Policy(name="x", max_detections=0)
