"""Work of threads ahead of and behind a loop, with a bound on what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def overlapped(
    function: Callable[[Item], Made], items: Iterable[Item], *, ahead: int, threads: int
) -> Generator[Made, None, None]:
    """`map` whose calls run in threads while the caller works, results in order.

    Memory holds at most `ahead` results that the caller has not taken yet. `items` is run through
    in the caller's own thread. When the caller stops early, calls not yet begun are dropped and
    those that have are waited for. An error is raised at its turn, after all results before it,
    and ends the loop; where it should not, let `function` return it.
    """
    waiting: deque[Future[Made]] = deque()
    source, failure = iter(items), None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while failure is None and len(waiting) <= ahead:
                    try:
                        item = next(source)
                    except StopIteration:
                        break
                    except Exception as error:
                        failure = error
                        break
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    break
                yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for call in waiting:
                call.cancel()
