from __future__ import annotations

import numpy as np
import pytest

from ssd34.core.labels import COCO_LABELS
from ssd34.errors import OptionError
from ssd34.evaluate.bootstrap import Interval, estimate_uncertainty, match
from ssd34.evaluate.metrics import measure_coco
from ssd34.evaluate.results import Results
from ssd34.evaluate.score import LOST_CLASSES, ScoreOptions, apply_zoo_2021, compare, score
from tests.support.coco_oracle import assert_same_numbers, data_of, large_case, oracle, random_case


def coco_case():
    """Many of COCO's classes, some crowds, detections near the objects."""
    values, results = large_case()
    ids = COCO_LABELS.category_ids
    for one in (*values["annotations"], *results):
        one["category_id"] = ids[(7 * one["image_id"] + one["category_id"]) % len(ids)]
    named = zip(COCO_LABELS.names, ids, strict=True)
    return values | {"categories": [{"id": c, "name": n} for n, c in named]}, results


def test_it_is_pycocotools_without_nine_classes_and_without_crowds():
    values, results = coco_case()
    dataset = data_of(values)
    options = ScoreOptions(metric="zoo-2021", resamples=10)
    found = score(dataset, Results.of(results), options)
    lost = {c["id"] for c in values["categories"] if c["name"] in LOST_CLASSES}
    assert len(lost) == 9
    values["categories"] = [c for c in values["categories"] if c["id"] not in lost]
    values["annotations"] = [
        {**a, "iscrowd": 0} for a in values["annotations"] if a["category_id"] not in lost
    ]
    rest = [r for r in results if r["category_id"] not in lost]
    assert_same_numbers(found.metrics, oracle(values, rest))
    assert len(found.metrics.class_ap) > 20
    assert found.to_dict()["metric"] == "zoo-2021"
    # The true metric says something else.
    true = score(dataset, Results.of(results), ScoreOptions(resamples=0))
    assert true.metrics.ap != pytest.approx(found.metrics.ap, abs=1e-3)
    assert true.to_dict()["metric"] == "coco" and true.to_dict()["intervals"] is None


def test_the_data_set_itself_is_left_alone():
    dataset = data_of(coco_case()[0])
    crowds = sum(int(sample.crowd.sum()) for sample in dataset.samples)
    seen = apply_zoo_2021(dataset)
    assert sum(int(sample.crowd.sum()) for sample in seen.samples) == 0 < crowds
    assert sum(int(sample.crowd.sum()) for sample in dataset.samples) == crowds
    assert len(dataset.labels) == 80


def test_other_classes_are_refused():
    values, _ = coco_case()
    for category in values["categories"]:
        category["name"] = category["name"].replace("toaster", "grill")
    with pytest.raises(OptionError, match=r"COCO's 80 classes.*'toaster'"):
        apply_zoo_2021(data_of(values))


@pytest.fixture(scope="module")
def case():
    values, results = large_case()
    return data_of(values), results


def worse(results, share, *, seed=0, category=None):
    """Some detections moved aside."""
    dice = np.random.default_rng(seed)
    return [
        {**r, "bbox": [r["bbox"][0] + r["bbox"][2] / 2, *r["bbox"][1:]]}
        if dice.random() < share and category in (None, r["category_id"])
        else r
        for r in results
    ]


def test_numbers_are_those_of_each_alone(case):
    dataset, results = case
    other = worse(results, 0.3)
    found = compare(match(dataset, results), match(dataset, other), resamples=100)
    ours, theirs = measure_coco(dataset, results), measure_coco(dataset, other)
    for name in ("AP", "AP50", "AP75"):
        assert found.summary[name].first == pytest.approx(ours.summary[name], abs=1e-9)
        assert found.summary[name].second == pytest.approx(theirs.summary[name], abs=1e-9)
    for name, difference in found.class_ap.items():
        change = theirs.class_ap[name] - ours.class_ap[name]
        assert difference.difference == pytest.approx(change, abs=1e-9)
        assert difference.interval
        assert difference.interval.low <= difference.difference <= difference.interval.high
    assert found.pictures == len(dataset)


def test_the_same_detections_do_not_differ(case):
    dataset, results = case
    found = compare(match(dataset, results), match(dataset, results), resamples=60)
    for difference in (*found.summary.values(), *found.class_ap.values()):
        assert difference.difference == 0 and difference.interval == Interval(0, 0)
        assert not difference.clear
    assert found.second_better is None


def test_a_clear_loss_is_clear_and_its_reverse_a_gain(case):
    dataset, results = case
    good, bad = match(dataset, results), match(dataset, worse(results, 0.6))
    loss, gain = compare(good, bad, resamples=200), compare(bad, good, resamples=200)
    ap = loss.summary["AP"]
    assert ap.difference < 0 and ap.clear and ap.interval and ap.interval.high < 0
    assert loss.second_better is not None and loss.second_better < 0.01
    assert gain.second_better is not None and gain.second_better > 0.99
    back = gain.summary["AP"].interval
    assert back and back.low == pytest.approx(-ap.interval.high)
    assert back.high == pytest.approx(-ap.interval.low)


def test_a_small_change_is_seen_more_sharply_than_by_two_intervals(case):
    dataset, results = case
    one, other = match(dataset, results), match(dataset, worse(results, 0.1))
    paired = compare(one, other, resamples=200).summary["AP"].interval
    alone = estimate_uncertainty(one, resamples=200).summary["AP"]
    assert paired
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_only_the_class_that_changed_differs(case):
    dataset, results = case
    found = compare(
        match(dataset, results), match(dataset, worse(results, 1, category=7)), resamples=60
    )
    assert found.class_ap["disc"].difference < -0.05
    assert {n for n, d in found.class_ap.items() if d.difference} == {"disc"}


def test_other_data_is_refused(case):
    dataset, results = case
    values, found = random_case(5)
    with pytest.raises(OptionError, match="same data"):
        compare(match(dataset, results), match(data_of(values), found), resamples=2)


def test_without_draws_there_are_differences_and_nothing_else(case):
    dataset, results = case
    good, bad = match(dataset, results), match(dataset, worse(results, 0.6))
    found = compare(good, bad, resamples=0)
    drawn = compare(good, bad, resamples=20)
    assert found.summary.keys() == drawn.summary.keys() == {"AP", "AP50", "AP75"}
    both = {**drawn.summary, **drawn.class_ap}
    for name, difference in {**found.summary, **found.class_ap}.items():
        assert difference.interval is None and not difference.clear
        assert difference.difference == both[name].difference
    assert found.second_better is None
    values = found.to_dict()["summary"]["AP"]
    assert (values["low"], values["high"], values["clear"]) == (None, None, False)


def test_a_rare_class_has_no_interval_and_no_star():
    values, results = large_case()
    with_disc = sorted({a["image_id"] for a in values["annotations"] if a["category_id"] == 7})
    values["annotations"] = [
        a for a in values["annotations"]
        if a["category_id"] != 7 or a["image_id"] in with_disc[:4]
    ]  # fmt: skip
    dataset = data_of(values)
    one, other = match(dataset, results), match(dataset, worse(results, 1, category=7))
    found = compare(one, other, resamples=50)
    assert found.class_ap["disc"].difference < 0
    assert found.class_ap["disc"].interval is None and not found.class_ap["disc"].clear
    assert found.class_ap["square"].interval and found.summary["AP"].interval
    assert set(estimate_uncertainty(one, resamples=50).class_ap) == {"square", "cross"}


def test_nothing_to_find():
    values, results = random_case(2)
    values["annotations"] = []
    matches = match(data_of(values), results)
    found = compare(matches, matches, resamples=2)
    assert found.summary == found.class_ap == {}
    assert found.second_better is None
