"""Work of threads ahead of and behind a loop, with a bound on what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def overlapped(
    function: Callable[[Item], Made], items: Iterable[Item], *, ahead: int, threads: int
) -> Iterator[Made]:
    """`map` whose calls run in threads while the caller works, results in order.

    Memory holds at most `ahead` results that the caller has not taken yet. `items` is run through
    in the caller's own thread. When the caller stops early, calls not yet begun are dropped.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for call in waiting:
                call.cancel()
