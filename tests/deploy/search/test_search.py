"""The search against a made-up world in which every layer's cost is known."""

import dataclasses
import itertools

import pytest

from ssd34.deploy.int8.plan import QuantizeOptions
from ssd34.deploy.search.gate import Criterion, Measurement, Trial, find_pareto_front, judge
from ssd34.deploy.search.search import Budget, Search
from ssd34.errors import OptionError
from ssd34.runtime.timing import SpeedUp
from tests.support.refusals import assert_facts

FLOAT_AP, FLOAT_MS = 0.2, 100.0
LAYERS = tuple(f"layer{i}" for i in range(12))


class World:
    """Each layer in int8 costs AP and saves time; ranges by minmax cost some more."""

    def __init__(self, costs, *, saved=6.0, extra=None):
        self.costs = dict(zip(LAYERS, costs, strict=True))
        self.saved = saved
        self.extra = extra or {}
        self.asked = []
        self.rankings = 0

    def measure(self, options):
        self.asked.append(options)
        in_int8 = [n for n in LAYERS if n not in options.float_nodes]
        lost = sum(self.costs[n] for n in in_int8) + self.extra.get(options.ranges, 0.0)
        ms = FLOAT_MS - self.saved * len(in_int8)
        ratio = FLOAT_MS / ms
        speedup = SpeedUp(ratio, ratio * 0.98, ratio * 1.02, 0.95)
        return Measurement(
            ap=FLOAT_AP - lost, float_ap=FLOAT_AP, ms=ms, float_ms=FLOAT_MS, speedup=speedup,
            seconds=1.0, file_bytes=1000,
        )  # fmt: skip

    def ranked(self, _):
        self.rankings += 1
        return sorted(LAYERS, key=lambda n: -self.costs[n])

    def search(self, criterion=None, budget=None, **more):
        return Search(
            self.measure, self.ranked, criterion or Criterion(), budget or Budget(), **more
        )


def candidates(*ranges):
    return [QuantizeOptions(ranges=r) for r in ranges or ("minmax", "percentile", "mse")]


def test_the_first_good_candidate_ends_the_search():
    world = World([0] * 12, extra={"minmax": 0.01})
    outcome = world.search().run(candidates())
    assert outcome.accepted.options.ranges == "percentile"
    assert [t.number for t in outcome.trials] == [1, 2]
    assert [t.accepted for t in outcome.trials] == [False, True]


def test_the_best_exit_tries_every_candidate():
    world = World([0] * 12, extra={"minmax": 0.0005, "percentile": 0.0004})
    outcome = world.search(budget=Budget(exit="best")).run(candidates())
    assert len(outcome.trials) == 3
    assert outcome.accepted.options.ranges == "mse"


@pytest.mark.parametrize("guilty", [1, 2, 5, 6])
def test_the_fewest_layers_go_back_to_float(guilty):
    costs = [0.004 + 0.0001 * i for i in range(guilty)] + [0] * (12 - guilty)
    outcome = World(costs).search(Criterion(min_speedup=1.2)).run(candidates("minmax"))
    assert set(outcome.accepted.options.float_nodes) == set(LAYERS[:guilty])
    smaller = [len(t.options.float_nodes) for t in outcome.trials if t.accurate]
    assert min(smaller) == guilty
    assert len(outcome.trials) <= 2 + 2 * 4


def test_the_fall_back_starts_from_the_most_accurate_ranges():
    world = World([0.01] + [0] * 11, extra={"minmax": 0.01, "percentile": 0.005})
    outcome = world.search().run(candidates())
    assert outcome.accepted.options == QuantizeOptions(ranges="mse", float_nodes=("layer0",))


def test_layers_in_float_are_no_remedy_for_slowness():
    outcome = World([0.01] * 12, saved=1.0).search().run(candidates())
    assert outcome.accepted is None
    assert len(outcome.trials) == 3
    assert "fast enough" in outcome.reason


def test_accuracy_that_only_comes_too_slow_is_not_accepted():
    world = World([0.01] * 10 + [0] * 2)
    outcome = world.search(Criterion(min_speedup=2.5)).run(candidates("minmax"))
    assert outcome.accepted is None
    assert outcome.best.fast
    assert not outcome.best.accurate
    assert "fast" in outcome.reason or "slow" in outcome.reason
    # Four are accurate and too slow, two not accurate: so are the three between.
    world = World([0.01] * 3 + [0] * 9)
    outcome = world.search(Criterion(min_speedup=2.2)).run(candidates("minmax"))
    assert outcome.accepted is None and "3 layers" in outcome.reason
    assert [len(t.options.float_nodes) for t in outcome.trials] == [0, 1, 2, 4, 3]


def test_the_low_end_of_the_interval_has_to_be_fast_enough():
    world = World([0] * 12)
    ratio = world.measure(QuantizeOptions()).speedup
    between = (ratio.low + ratio.value) / 2
    assert world.search(Criterion(min_speedup=between)).run(candidates()).accepted is None
    assert world.search(Criterion(min_speedup=ratio.low)).run(candidates()).accepted


@pytest.mark.parametrize(
    ("criterion", "lost", "accurate"),
    [
        (Criterion(max_drop=0.004, drop="relative"), 0.005, False),
        (Criterion(max_drop=0.004, drop="absolute"), 0.001, True),
    ],
)
def test_relative_and_absolute_drops(criterion, lost, accurate):
    options = QuantizeOptions()
    measured = World([0.001] + [0] * 11).measure(options)
    trial = judge(measured, options, number=1, criterion=criterion)
    assert trial.drop == pytest.approx(lost) and trial.accurate is accurate


def test_the_number_of_trials_is_bounded():
    """And layers are not ranked where no trial can follow."""
    world = World([0.01] + [0] * 11)
    outcome = world.search(budget=Budget(max_trials=3)).run(candidates())
    assert len(outcome.trials) == len(world.asked) == 3
    assert world.rankings == 0 and "max-trials" in outcome.reason
    assert outcome.best is min(outcome.trials, key=lambda t: t.drop)
    full = world.search(budget=Budget(max_trials=4)).run(candidates())
    assert full.accepted
    again = world.search(budget=Budget(max_trials=4), earlier=full.trials).run(candidates())
    assert again == full


def test_an_accepted_file_is_told_first_where_the_budget_ends_the_search():
    clock = itertools.count(0, 10)
    world = World([0] * 12, extra={"minmax": 0.0005, "percentile": 0.0004})
    search = world.search(budget=Budget(exit="best", timeout=25), clock=lambda: next(clock))
    outcome = search.run(candidates())
    assert outcome.accepted.options.ranges == "percentile" and len(outcome.trials) == 2
    assert_facts(outcome.reason, "passes", "25 seconds", "--timeout")
    other = search.run([QuantizeOptions(form="qdq", opset=13)])
    assert other.trials == ()
    assert_facts(other.reason, "did not begin", "25 seconds", "--timeout")


def test_earlier_trials_are_not_measured_again():
    """They come from JSON."""
    costs = [0.004, 0.003, 0.002] + [0] * 9
    full = World(costs).search().run(candidates())
    earlier = tuple(Trial.from_dict(trial.to_dict()) for trial in full.trials)
    assert earlier == full.trials
    for known in range(1, len(full.trials) + 1):
        world = World(costs)
        assert world.search(earlier=earlier[:known]).run(candidates()) == full
        assert len(world.asked) == len(full.trials) - known


def test_the_front_holds_what_nothing_beats():
    world = World([0.001] * 12)
    trial = world.search().run(candidates("minmax")).trials[0]
    points = [(10.0, 0.1), (12.0, 0.1), (9.0, 0.05), (20.0, 0.2), (21.0, 0.19), (10.0, 0.09)]
    trials = [
        dataclasses.replace(trial, number=i, ms=ms, ap=ap) for i, (ms, ap) in enumerate(points)
    ]
    assert [t.number for t in find_pareto_front(trials)] == [2, 0, 3]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Criterion, {"max_drop": -0.1}), (Criterion, {"min_speedup": 0}), (Budget, {"timeout": 0}),
    ],
)  # fmt: skip
def test_senseless_values_are_refused(kind, values):
    with pytest.raises(OptionError):
        kind(**values)
