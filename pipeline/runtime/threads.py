"""Runs work in threads, with memory that does not grow with the number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items a thread may be ahead of the consumer of the results.
AHEAD = 8


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Results of `work`, in the order of the items.

    Unlike `Executor.map` it takes only a few items ahead, so neither tasks nor results pile up.

    Parameters
    ----------
    work
        Called in the threads. What it raises is raised here, when its turn comes.
    threads
        That work at once.
    """
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > AHEAD * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
