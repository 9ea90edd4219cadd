from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.scheduler import WorkerDied, executor
from tests.pipeline.faulty_work import misbehave


def test_in_process_runs_in_order() -> None:
    with executor(0, time_limit=1) as workforce:
        results = list(workforce.run(misbehave, iter(["a", "b"])))
    assert results == [("a", "A"), ("b", "B")]


def test_dead_crashed_and_hanging_workers_cost_their_task_only() -> None:
    tasks = ["a", "exit", "b", "crash", "c", "hang", "d"]
    with executor(2, time_limit=2) as workforce:
        results = dict(workforce.run(misbehave, iter(tasks)))
        again = dict(workforce.run(misbehave, iter(["e"])))
    died = {task for task, outcome in results.items() if isinstance(outcome, WorkerDied)}
    assert died == {"exit", "crash", "hang"}
    assert {results[task] for task in "abcd"} == {"A", "B", "C", "D"}
    assert again == {"e": "E"}
    hang = results["hang"]
    assert isinstance(hang, WorkerDied)
    assert hang.seconds >= 2


def test_an_unexpected_exception_is_not_swallowed() -> None:
    with executor(1, time_limit=5) as workforce, pytest.raises(ValueError, match="raise"):
        list(workforce.run(misbehave, iter(["raise"])))


def test_tasks_are_drawn_one_by_one_as_workers_get_free() -> None:
    drawn: list[str] = []

    def tasks() -> Iterator[str]:
        for name in "abcdef":
            drawn.append(name)
            yield name

    with executor(0, time_limit=1) as workforce:
        run = workforce.run(misbehave, tasks())
        next(run)
        assert drawn == ["a"]
        run.close()
