from __future__ import annotations

import threading

import pytest
from ssd34.evaluate.overlap import overlapped


def test_results_come_in_order():
    assert list(overlapped(lambda k: k * k, range(50), ahead=3, threads=4)) == [
        k * k for k in range(50)
    ]
    assert list(overlapped(str, [], ahead=3, threads=1)) == []


def test_no_more_than_asked_for_is_made_ahead():
    taken = 0
    made: list[int] = []

    def items():
        for k in range(30):
            assert k <= taken + 3
            yield k

    for _ in overlapped(made.append, items(), ahead=2, threads=2):
        taken += 1
        assert len(made) <= taken + 3
    assert taken == 30


def test_calls_run_beside_the_caller():
    here = threading.get_ident()
    assert all(
        k != here for k in overlapped(lambda _: threading.get_ident(), range(3), ahead=1, threads=1)
    )
    # Each call waits for the caller to go on to the next item.
    gates = [threading.Event() for _ in range(4)]

    def items():
        for k, gate in enumerate(gates):
            if k:
                gates[k - 1].set()
            yield gate
        gates[-1].set()

    waits = overlapped(lambda gate: gate.wait(30), items(), ahead=1, threads=1)
    assert list(waits) == [True] * 4


def test_errors_reach_the_caller_and_stop_the_rest():
    done = []

    def work(k):
        if k == 3:
            raise ValueError("three")
        done.append(k)
        return k

    got = []
    with pytest.raises(ValueError, match="three"):
        for k in overlapped(work, range(1000), ahead=4, threads=2):
            got.append(k)
    assert got == [0, 1, 2]
    assert max(done) < 20


def test_threads_end_when_the_caller_stops_early():
    before = threading.active_count()
    for k in overlapped(lambda k: k, range(1000), ahead=5, threads=3):
        assert k == 0
        break
    assert threading.active_count() == before
