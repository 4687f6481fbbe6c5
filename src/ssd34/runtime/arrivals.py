"""The server scenario: pictures arrive when they like, and wait while another is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ssd34.errors import OptionError

PRECISION = 0.05
"""The search for the highest rate ends when it is known to within this share."""

IDLE = 1 / 32
"""At this share of the capacity pictures hardly meet: lower rates take hours to say the same."""


def latencies_at(
    rate: float,
    run: Callable[[int], object],
    *,
    queries: int,
    generator: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """Answer pictures that arrive independently of each other, one after the other.

    Arrival times are a Poisson process, drawn beforehand: a slow answer does not hold the next
    picture back, it makes it wait. Its waiting counts.

    Args:
        rate: arrivals a second, on average.
        run: answers query number k.
        queries: arrivals.
        generator: draws the times between arrivals.
        clock: seconds.
        sleep: waits so many seconds.

    Returns:
        Milliseconds from each arrival to its answer.
    """
    if not (rate > 0 and np.isfinite(rate)) or queries < 1:
        raise OptionError(f"expected a rate > 0 and queries >= 1, got {rate} and {queries}")
    arrivals = clock() + np.cumsum(generator.exponential(1 / rate, queries))
    latencies = []
    for number, arrival in enumerate(arrivals):
        early = float(arrival) - clock()
        if early > 0:
            sleep(early)
        run(number)
        latencies.append(1000 * (clock() - float(arrival)))
    return latencies


def highest_rate(
    p99_at: Callable[[float], float], *, bound: float, capacity: float, trials: int = 12
) -> tuple[float, list[tuple[float, float]]]:
    """The highest rate whose p99 stays within a bound, by bisection.

    Args:
        p99_at: measures the p99 in milliseconds at a rate.
        bound: in milliseconds.
        capacity: pictures a second when none has to wait for its arrival; no higher rate can be
            kept up.
        trials: most rates that are measured.

    Returns:
        The rate, 0 if none down to `IDLE` of the capacity was slow enough, and every rate
        measured with its p99.
    """
    if not (bound > 0 and capacity > 0):
        raise OptionError(f"expected a bound and a capacity above 0, got {bound} and {capacity}")
    low, high = 0.0, capacity
    measured: list[tuple[float, float]] = []
    while len(measured) < trials and high - low > PRECISION * high and high > IDLE * capacity:
        rate = (low + high) / 2
        p99 = p99_at(rate)
        measured.append((rate, p99))
        low, high = (rate, high) if p99 <= bound else (low, rate)
    return low, measured


def p99(latencies: Sequence[float]) -> float:
    """A latency that was measured and that 99 of 100 do not exceed."""
    return float(np.quantile(latencies, 0.99, method="inverted_cdf"))
