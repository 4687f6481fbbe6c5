import numpy as np
import pytest

from ssd34.errors import OptionError
from ssd34.runtime.arrivals import IDLE, PRECISION, highest_rate, latencies_at, p99


class Machine:
    """A clock that moves when somebody sleeps or is served."""

    def __init__(self, service):
        self.now, self.service, self.slept = 50.0, service, 0.0
        self.served: list[int] = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        self.slept += seconds

    def run(self, number):
        self.served.append(number)
        self.now += self.service

    def latencies(self, rate, queries=2000, seed=1):
        return latencies_at(
            rate,
            self.run,
            queries=queries,
            generator=np.random.default_rng(seed),
            clock=self.clock,
            sleep=self.sleep,
        )


def test_a_machine_without_work_answers_at_once():
    machine = Machine(service=0.01)
    latencies = machine.latencies(rate=0.01, queries=100)
    np.testing.assert_allclose(latencies, 10, rtol=1e-6)
    assert machine.served == list(range(100))
    # The last of a hundred arrivals at one in a hundred seconds.
    assert 8_000 < machine.slept < 12_000


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_waiting_is_that_of_queueing_theory(load):
    """Pollaczek-Khinchine for a constant service time s: s + s * load / (2 * (1 - load))."""
    service = 0.02
    latencies = Machine(service).latencies(rate=load / service, queries=60_000)
    expected = 1000 * service * (1 + load / (2 * (1 - load)))
    assert np.mean(latencies) == pytest.approx(expected, rel=0.05)


def test_too_many_pictures_pile_up():
    latencies = Machine(service=1.0).latencies(rate=2, queries=200)
    assert latencies[-1] > 80_000
    assert np.polyfit(range(200), latencies, 1)[0] > 0


def test_the_same_seed_gives_the_same_arrivals():
    assert Machine(0.1).latencies(3, 50) == Machine(0.1).latencies(3, 50)
    assert Machine(0.1).latencies(3, 50) != Machine(0.1).latencies(3, 50, seed=2)


@pytest.mark.parametrize(("rate", "queries"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 0)])
def test_wrong_rates(rate, queries):
    with pytest.raises(OptionError, match="rate > 0"):
        Machine(1).latencies(rate, queries)


# --- the highest rate -----------------------------------------------------------------------


def test_bisection_finds_where_p99_reaches_the_bound():
    rate, measured = highest_rate(lambda rate: 10 * rate, bound=37, capacity=10)
    assert rate == pytest.approx(3.7, rel=2 * PRECISION) and rate <= 3.7
    assert measured[0] == (5, 50)
    assert all(p == 10 * r for r, p in measured)


def test_no_rate_is_slow_enough():
    rate, measured = highest_rate(lambda _: 1000, bound=37, capacity=10)
    assert rate == 0 and min(measured)[0] == 10 * IDLE


def test_the_search_ends_after_so_many_trials():
    assert len(highest_rate(lambda _: 1000, bound=37, capacity=10, trials=3)[1]) == 3


def test_every_rate_is_slow_enough():
    rate, _ = highest_rate(lambda _: 1, bound=37, capacity=10)
    assert 9 <= rate < 10


def test_a_queue_whose_answer_is_known():
    service = 0.01
    rate, _ = highest_rate(
        lambda rate: p99(Machine(service).latencies(rate, 5000)), bound=50, capacity=1 / service
    )
    assert p99(Machine(service).latencies(rate, 5000)) <= 50
    assert p99(Machine(service).latencies(1.1 * rate, 5000)) > 50


def test_p99_is_a_latency_that_was_measured():
    assert p99(range(1, 101)) == 99
    assert p99([3.0, 1.0, 2.0]) == 3


@pytest.mark.parametrize(("bound", "capacity"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_wrong_bounds(bound, capacity):
    with pytest.raises(OptionError, match="above 0"):
        highest_rate(lambda _: 1, bound=bound, capacity=capacity)
