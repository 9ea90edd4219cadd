from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest

from pipeline import scheduler
from pipeline.errors import GenispError
from pipeline.scheduler import WorkerDied, executor
from tests.pipeline.faulty_work import DeadlyAnswer, answer_deadly, misbehave


def test_in_process_runs_in_order() -> None:
    with executor(0, time_limit=1) as workforce:
        results = list(workforce.run(misbehave, iter(["a", "b"])))
    assert results == [("a", "A"), ("b", "B")]


def test_dead_crashed_and_hanging_workers_cost_their_task_only() -> None:
    tasks = ["a", "exit", "b", "crash", "c", "hang", "d"]
    stopping = False
    with executor(2, time_limit=2, stopping=lambda: stopping) as workforce:
        results = dict(workforce.run(misbehave, iter(tasks)))
        stopping = True
        again = dict(workforce.run(misbehave, iter(["e", "exit"])))
    died = {task for task, outcome in results.items() if isinstance(outcome, WorkerDied)}
    assert died == {"exit", "crash", "hang"}
    assert {results[task] for task in "abcd"} == {"A", "B", "C", "D"}
    hang = results["hang"]
    assert isinstance(hang, WorkerDied)
    assert hang.seconds >= 2
    # Nothing is blamed on a task that had one try only.
    assert again == {"e": "E"}


def test_a_task_is_not_blamed_for_one_death_of_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed from outside, stopped for good, or gone before its result was fetched."""
    monkeypatch.setattr(scheduler, "SILENCE", 0.0)
    exits, stops, answers = (str(tmp_path / name) for name in ("exit", "stop", "answer"))
    with executor(2, time_limit=3) as workforce:
        results = dict(workforce.run(misbehave, iter(["a", f"exit once:{exits}", "b"])))
        assert results == {"a": "A", "b": "B", f"exit once:{exits}": f"EXIT ONCE:{exits.upper()}"}
        fetched = dict(workforce.run(answer_deadly, iter([answers])))
        assert fetched == {answers: DeadlyAnswer(answers)}
        results = dict(workforce.run(misbehave, iter([f"stop once:{stops}"])))
        assert results == {f"stop once:{stops}": f"STOP ONCE:{stops.upper()}"}


def test_workers_that_do_not_start_are_tried_again_and_then_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def fail(**_: Any) -> None:
        tried.append(1)
        raise RuntimeError("Nanny failed to start.") from MemoryError("no memory")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    with pytest.raises(GenispError, match="do not start") as raised, executor(2, time_limit=1):
        pass
    assert len(tried) == scheduler.STARTS
    assert "no memory" in raised.value.message
    assert "the same command" in raised.value.hint


def test_a_run_without_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started any more, nothing would ever finish."""
    workers: dict[str, int] = {}
    cluster = SimpleNamespace(scheduler=SimpleNamespace(workers=workers))
    client = SimpleNamespace(cluster=cluster)
    workforce = scheduler._DaskExecutor(client, 2, 1.0, lambda: False)
    monkeypatch.setattr(scheduler, "PATIENCE", 0.0)
    workers["tcp"] = 1
    workforce._require_workers()
    workers.clear()
    workforce._require_workers()
    with pytest.raises(GenispError, match="stayed alive"):
        workforce._require_workers()


def test_what_a_decoder_writes_to_the_terminal_is_not_heard(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with executor(1, time_limit=5) as workforce:
        assert dict(workforce.run(misbehave, iter(["shout", "a"]))) == {"shout": "SHOUT", "a": "A"}
    assert capfd.readouterr().err == ""


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
