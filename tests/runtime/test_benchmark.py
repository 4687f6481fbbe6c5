import statistics

import numpy as np
import pytest

from ssd34.runtime.timing import interleaved, speed_up, summary


class Clock:
    """Time passes only where a model says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def model(self, name, seconds, calls):
        waits = iter(seconds)

        def run():
            calls.append(name)
            self.now += next(waits)

        return run


def test_models_take_turns_and_the_warm_up_does_not_count():
    clock = Clock()
    calls: list[str] = []
    done: list[int] = []
    waits = {"a": [9, 9, 0.001, 0.002, 0.003], "b": [9, 9, 0.010, 0.020, 0.030]}
    models = {name: clock.model(name, seconds, calls) for name, seconds in waits.items()}
    times = interleaved(models, rounds=3, warm_up=2, clock=clock, progress=done.append)
    assert calls == ["a", "b"] * 5
    assert done == [1, 2, 3, 4, 5]
    assert list(times) == ["a", "b"]
    np.testing.assert_allclose(times["a"], [1, 2, 3])
    np.testing.assert_allclose(times["b"], [10, 20, 30])


def test_percentiles_are_times_that_were_measured():
    times = list(range(1, 101))
    found = summary(times)
    assert (found.p90, found.p99) == (90, 99)
    assert (found.fastest, found.slowest, found.rounds) == (1, 100, 100)
    assert found.median == statistics.median(times) == 50.5
    assert summary(range(1, 21)).p99 == 20
    assert summary([7]).to_dict() == {
        "rounds": 1, "median": 7, "p90": 7, "p99": 7, "fastest": 7, "slowest": 7,
    }  # fmt: skip


@pytest.mark.parametrize("factor", [0.1, 1, 3.5, 10])
@pytest.mark.parametrize("rounds", [1, 2, 30])
def test_a_model_that_is_always_so_much_faster(factor, rounds):
    """Whatever the noise, if it is common to both there is no doubt about the ratio."""
    times = np.random.default_rng(rounds).lognormal(3, 2, rounds)
    found = speed_up(np.array(times) * factor, times)
    for value in (found.value, found.low, found.high):
        assert value == pytest.approx(factor, rel=1e-9)


def test_rounds_are_drawn_for_both_models_together():
    """A machine that gets ten times slower for half of the rounds does not widen the interval;
    it does where the rounds of the two are shuffled."""
    generator = np.random.default_rng(1)
    slow = np.repeat([1.0, 10.0], 20)
    model = slow * generator.normal(10, 0.1, 40)
    baseline = 3 * slow * generator.normal(10, 0.1, 40)
    paired = speed_up(baseline, model)
    assert 2.9 < paired.low <= paired.value <= paired.high < 3.1
    unpaired = speed_up(generator.permutation(baseline), model)
    assert unpaired.high - unpaired.low > 10 * (paired.high - paired.low)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        baseline, model = generator.lognormal(np.log(4), 0.2, 25), generator.lognormal(0, 0.2, 25)
        found = speed_up(baseline, model)
        assert found.low <= found.high and found.confidence == 0.95
        inside += found.low <= 4 <= found.high
    assert 0.88 <= inside / 100 <= 0.99


def test_equal_times_give_equal_intervals():
    baseline, model = [5.0, 6.0, 7.0], [1.0, 3.0, 2.0]
    assert speed_up(baseline, model) == speed_up(baseline, model)
    assert str(speed_up([4, 4], [2, 2])) == "2.00 (2.00 to 2.00)"
    values = {"value": 2, "low": 2, "high": 2, "confidence": 0.95}
    assert speed_up([4], [2]).to_dict() == values
