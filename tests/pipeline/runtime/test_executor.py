from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any

import distributed
import psutil
import pytest
from distributed.comm.core import connect
from distributed.security import Security

from pipeline.errors import GenispError
from pipeline.runtime import dask_cluster
from pipeline.runtime import executor as executing
from pipeline.runtime.executor import WorkerDied, executor
from tests.pipeline.runtime.faulty_work import (
    DeadlyAnswer,
    answer_deadly,
    misbehave,
    places_of_modules,
)

TEMPORARY = Path(gettempdir())


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
    monkeypatch.setattr(dask_cluster, "SILENCE", 0.0)
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
    assert len(tried) == dask_cluster.STARTS
    assert "no memory" in raised.value.message
    assert "the same command" in raised.value.mend


def test_a_run_without_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started any more, nothing would ever finish."""
    workers: dict[str, int] = {}
    cluster = SimpleNamespace(scheduler=SimpleNamespace(workers=workers))
    client = SimpleNamespace(cluster=cluster)
    workforce = executing._DaskExecutor(client, 2, 1.0, lambda: False)
    monkeypatch.setattr(executing, "PATIENCE", 0.0)
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


async def _opened(addresses: list[str], **security: Any) -> list[str]:
    """Those addresses at which Dask's own handshake succeeds."""

    async def opens(address: str) -> bool:
        try:
            # A web server lets Dask's handshake wait for ever.
            comm = await asyncio.wait_for(connect(address, timeout=1, **security), 2)
        except OSError:
            return False
        comm.abort()
        return True

    answers = await asyncio.gather(*map(opens, addresses))
    return [address for address, answer in zip(addresses, answers, strict=True) if answer]


def _page(port: int, path: str) -> int | None:
    """The status a web server answers with; None if none is there."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def test_only_this_runs_processes_reach_the_workers() -> None:
    """Dask obeys whoever can connect, and every user of the machine can connect to 127.0.0.1."""
    with executor(2, time_limit=20) as workforce:
        assert isinstance(workforce, executing._DaskExecutor)
        run = workforce.run(misbehave, iter("abcdef"))
        results = [next(run)]
        processes = [me := psutil.Process(), *me.children(recursive=True)]
        listening = [
            connection.laddr
            for process in processes
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 5  # scheduler, two workers, and what starts each of them
        assert {address.ip for address in listening} == {"127.0.0.1"}
        places = [f"127.0.0.1:{address.port}" for address in listening]

        # Without a certificate, and with one that somebody else made.
        stranger = Security.temporary().get_connection_args("client")
        assert asyncio.run(_opened([f"tcp://{place}" for place in places])) == []
        assert asyncio.run(_opened([f"tls://{place}" for place in places], **stranger)) == []
        plain = workforce._client.cluster.scheduler_address.replace("tls", "tcp")
        with pytest.raises(OSError, match=r"closed|Timed out"):
            distributed.Client(plain, timeout=1)
        # Nor do Dask's web pages tell anything.
        pages = ("/info/main/workers.html", "/json/identity.json", "/metrics")
        answers = {_page(address.port, page) for address in listening for page in pages}
        assert answers <= {None, 404}

        # With the run's own certificate the same handshake succeeds: what is refused is the key.
        own = workforce._client.cluster.security.get_connection_args("client")
        assert len(asyncio.run(_opened([f"tls://{place}" for place in places], **own))) >= 5
        # Others may read how a process was called.
        for process in processes:
            seen = " ".join([*process.cmdline(), *process.environ().values()])
            assert "PRIVATE KEY" not in seen
        assert dict([*results, *run]) == {name: name.upper() for name in "abcdef"}


def test_modules_are_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be a data set that somebody else made."""
    (tmp_path / "pickle.py").write_text("open('run', 'w'); raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    with executor(1, time_limit=20) as workforce:
        assert dict(workforce.run(misbehave, iter(["a"]))) == {"a": "A"}
    assert not (tmp_path / "run").exists()


def test_modules_are_not_taken_from_a_folder_others_can_write_to() -> None:
    """Dask puts its scratch folder first."""
    with executor(1, time_limit=20) as workforce:
        [(_, places)] = workforce.run(places_of_modules, iter([""]))
        assert isinstance(places, list)
        scratch = {Path(place) for place in [*sys.path, *places] if "dask-scratch" in place}
        assert len(scratch) >= 2
        [private] = {
            parent for path in scratch for parent in path.parents if parent.parent == TEMPORARY
        }
        assert private.stat().st_mode & 0o777 == 0o700
    assert not private.exists()
    assert [place for place in sys.path if "dask-scratch" in place] == []


def test_a_clock_that_is_set_back_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's messages wait for moments; were they of the time of day, they would wait an hour."""

    def too_late(*_: object) -> None:
        raise TimeoutError("the tasks do not go on")

    before, now = signal.signal(signal.SIGALRM, too_late), time.time
    signal.alarm(60)
    try:
        with executor(2, time_limit=20) as workforce:
            results = {}
            for task, outcome in workforce.run(misbehave, iter("abcdefgh")):
                results[task] = outcome
                monkeypatch.setattr(time, "time", lambda: now() - 3600)
            assert results == {letter: letter.upper() for letter in "abcdefgh"}
    finally:
        monkeypatch.undo()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
