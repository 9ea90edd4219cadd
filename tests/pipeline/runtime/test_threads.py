from __future__ import annotations

import threading
import time

import pytest

from pipeline.runtime.threads import AHEAD, in_order


def test_results_come_in_the_order_of_the_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return -item

    assert list(in_order(work, range(50), 4)) == [-item for item in range(50)]
    assert list(in_order(work, [], 4)) == []


def test_work_is_taken_only_a_few_items_ahead() -> None:
    """A map over a million items must not hold a million tasks, or results nobody took yet."""
    started: list[int] = []
    results = in_order(started.append, iter(range(1000)), 2)
    for taken in range(100):
        next(results)
        assert len(started) <= taken + 1 + 2 * AHEAD + 1


def test_an_error_comes_in_its_turn_and_ends_the_rest() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        done.append(item)
        return item

    results = in_order(work, range(1000), 1)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(done) <= 6 + AHEAD


def test_whoever_stops_taking_waits_for_nothing_that_has_not_begun() -> None:
    turns, begun = threading.Semaphore(1), []

    def work(item: int) -> int:
        begun.append(item)
        turns.acquire(timeout=5)
        return item

    results = in_order(work, range(1000), 1)
    assert next(results) == 0
    while len(begun) < 2:
        time.sleep(0.001)
    threading.Timer(0.05, turns.release).start()
    results.close()  # type: ignore[attr-defined]
    assert begun == [0, 1]
