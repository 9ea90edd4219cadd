"""Runs tasks on a local Dask cluster, or in this process.

Each worker has one task at a time. So when a worker dies, its task is known. The task need not be
the reason: the machine may be out of memory, or somebody killed the worker. So the task is run once
more after all others, alone, and is blamed only if that fails too.

Each task runs under a watchdog that works whatever the decoder is doing: it ends the process from a
C thread. A worker that does not answer at all (stopped, or stuck in the kernel) is killed by the
scheduler.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, TypeVar

from pipeline.errors import GenispError
from pipeline.runtime.dask_cluster import cluster, no_workers
from pipeline.runtime.interruption import never

#: Seconds without any worker after which the run is given up.
PATIENCE = 60.0

#: Open files that a coordinator needs, and more for each worker: 1.5 times what was measured.
HANDLES = 48
HANDLES_PER_WORKER = 16

_POLL = 1.0

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class WorkerDied:
    """Stands in for an outcome when a task's worker died, or ran into the time limit, twice."""

    seconds: float


class Executor(Protocol):
    """Runs one function over tasks; results come as they finish."""

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def run(
        self, function: Callable[[Task], Outcome], tasks: Iterator[Task]
    ) -> Generator[tuple[Task, Outcome | WorkerDied], None, None]:
        """Yield (task, outcome) in the order of completion; stop early by closing the iterator."""


class InProcess:
    """No workers: tasks run here, one by one, with plain tracebacks and no watchdog."""

    workers = 1

    def run(
        self, function: Callable[[Task], Outcome], tasks: Iterator[Task]
    ) -> Generator[tuple[Task, Outcome | WorkerDied], None, None]:
        for task in tasks:
            yield task, function(task)


def require_handles(workers: int) -> None:
    """Allow this process as many open files as it needs: without them Dask hangs.

    Windows has no such limit.

    Raises
    ------
    GenispError
        If the system forbids it.
    """
    try:
        import resource
    except ImportError:
        return
    needed = HANDLES + HANDLES_PER_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fewer = ", or give fewer --workers" if workers else ""
        raise GenispError(
            f"{needed} open files are needed, the system allows {hard}",
            mend=f"allow more (ulimit -n){fewer}, then run the same command",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def executor(
    workers: int, *, time_limit: float, stopping: Callable[[], bool] = never
) -> Iterator[Executor]:
    """An executor with `workers` processes, or this process for 0.

    Parameters
    ----------
    time_limit
        Seconds a task may take before its worker is ended.
    stopping
        Asked before a task is run a second time; if true, the task stays without an outcome.

    Raises
    ------
    GenispError
        If no worker process can be started, or kept, or too few files may be open.
    """
    if workers == 0:
        yield InProcess()
        return
    require_handles(workers)
    with cluster(workers, time_limit) as client:
        yield _DaskExecutor(client, workers, time_limit, stopping)


class _DaskExecutor:
    def __init__(
        self, client: Any, workers: int, time_limit: float, stopping: Callable[[], bool]
    ) -> None:
        self._client = client
        self._time_limit = time_limit
        self._stopping = stopping
        self._alone_since: float | None = None
        self.workers = workers

    def run(
        self, function: Callable[[Task], Outcome], tasks: Iterator[Task]
    ) -> Generator[tuple[Task, Outcome | WorkerDied], None, None]:
        suspects: list[Task] = []
        for task, outcome in self._run_once(function, tasks, self.workers):
            if isinstance(outcome, WorkerDied):
                suspects.append(task)
            else:
                yield task, outcome
        for task in suspects:
            if not self._stopping():
                yield from self._run_once(function, iter([task]), 1)

    def _run_once(
        self, function: Callable[[Task], Outcome], tasks: Iterator[Task], at_once: int
    ) -> Iterator[tuple[Task, Outcome | WorkerDied]]:
        running: dict[Any, tuple[Task, float]] = {}

        def submit() -> None:
            for task in tasks:
                future = self._client.submit(
                    _guarded, function, task, self._time_limit, pure=False, retries=0
                )
                running[future] = (task, time.monotonic())
                return

        for _ in range(at_once):
            submit()
        while running:
            for future in self._finished(running):
                task, since = running.pop(future)
                outcome = self._outcome(future, since)
                submit()
                yield task, outcome

    def _finished(self, futures: Collection[Any]) -> list[Any]:
        """Wait for at least one of some futures."""
        from distributed import wait

        while True:
            try:
                return list(wait(list(futures), _POLL, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                self._require_workers()

    def _outcome(self, future: Any, since: float) -> Any:
        """What a finished task returned; lost if its worker died before it was transferred."""
        from distributed import KilledWorker

        while True:
            try:
                return future.result(timeout=_POLL)
            except KilledWorker:
                return WorkerDied(time.monotonic() - since)
            except TimeoutError:
                if future.status == "error":
                    raise
                self._require_workers()  # Dask runs the task again to get it back

    def _require_workers(self) -> None:
        """Raise if Dask, which replaces workers that die, has had none for `PATIENCE` seconds."""
        if self._client.cluster.scheduler.workers:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > PATIENCE:
            raise no_workers(f"for {PATIENCE:g} s no worker process has stayed alive")


def _guarded(function: Callable[[Task], Outcome], task: Task, time_limit: float) -> Outcome:
    """Run a task; after `time_limit` seconds the process ends, whatever it is doing."""
    with _unheard() as nowhere:  # the watchdog's traceback says nothing to a user
        faulthandler.dump_traceback_later(time_limit, exit=True, file=nowhere)
        try:
            return function(task)
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _unheard() -> Iterator[TextIO]:
    """Send file descriptor 2 to nowhere: LibRaw writes "data corrupted" to it by itself.

    What it finds is reported anyway, with the file's name, as the task's failure.
    """
    with open(os.devnull, "w") as nowhere:
        terminal = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield nowhere
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
