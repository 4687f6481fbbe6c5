import threading
import time
from contextlib import closing

import pytest

from ssd34.machine import overlapped


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_order_is_kept(threads, count):
    def late(number):
        time.sleep(0.001 * (number % 3))
        return -number

    made = overlapped(late, range(count), ahead=threads, threads=threads)
    assert list(made) == [-number for number in range(count)]


def test_work_is_done_by_other_threads():
    threads = set(overlapped(lambda _: threading.get_ident(), range(9), ahead=2, threads=2))
    assert 1 <= len(threads) <= 2 and threading.get_ident() not in threads


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (1, 1), (1, 3), (3, 5)])
def test_never_more_than_so_many_ahead(threads, ahead):
    asked = []

    def items():
        for number in range(20):
            asked.append(number)
            yield number

    for number in overlapped(lambda n: n, items(), ahead=ahead, threads=threads):
        assert asked == list(range(min(20, number + ahead + 1)))


def test_the_next_one_is_made_while_this_one_is_used():
    made = [threading.Event() for _ in range(3)]
    with closing(overlapped(lambda n: made[n].set(), range(3), ahead=1, threads=1)) as coming:
        next(coming)
        assert made[1].wait(10) and not made[2].is_set()


def broken_after_two():
    yield from (1, 1 / 2)
    raise ZeroDivisionError


@pytest.mark.parametrize("items", [(1, 2, 0, 4), broken_after_two()])
def test_an_error_of_work_or_source_comes_at_its_turn_and_ends_the_loop(items):
    coming = overlapped(lambda n: 1 / n, items, ahead=5, threads=2)
    assert [next(coming), next(coming)] in ([1, 0.5], [1, 2])
    with pytest.raises(ZeroDivisionError):
        next(coming)
    assert list(coming) == []


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_leaving_early_ends_the_threads_and_drops_the_rest(reason):
    begun = []
    before = threading.active_count()

    def work(number):
        begun.append(number)
        time.sleep(0.02)

    coming = overlapped(work, range(100), ahead=50, threads=1)
    with pytest.raises(reason), closing(coming):
        for _ in coming:
            raise reason
    assert threading.active_count() == before
    assert len(begun) < 50


def test_nothing_is_asked_for_before_the_first_is_wanted():
    def items():
        raise AssertionError
        yield

    overlapped(lambda n: n, items(), ahead=1, threads=1)
