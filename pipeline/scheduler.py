"""Runs tasks on a local Dask cluster, or in this process. The only module that imports dask.

One task a worker at a time: so when a worker dies, it is known which source killed it. Each task
runs under a watchdog that needs no help from the decoder: it ends the process from a C thread.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class WorkerDied:
    """Stands in for an outcome when a task killed its worker or ran into the time limit."""

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


@contextmanager
def executor(workers: int, *, time_limit: float) -> Iterator[Executor]:
    """An executor with `workers` processes, or this process for 0.

    Parameters
    ----------
    time_limit
        Seconds a task may take before its worker is ended.
    """
    if workers == 0:
        yield InProcess()
        return
    with _cluster(workers) as client:
        yield _DaskExecutor(client, workers, time_limit)


class _DaskExecutor:
    def __init__(self, client: Any, workers: int, time_limit: float) -> None:
        self._client = client
        self._time_limit = time_limit
        self.workers = workers

    def run(
        self, function: Callable[[Task], Outcome], tasks: Iterator[Task]
    ) -> Generator[tuple[Task, Outcome | WorkerDied], None, None]:
        from distributed import KilledWorker, as_completed
        from distributed.metrics import time

        started: dict[str, tuple[Task, float]] = {}
        finished = as_completed()

        def submit() -> None:
            for task in tasks:
                future = self._client.submit(
                    _guarded, function, task, self._time_limit, pure=False, retries=0
                )
                started[future.key] = (task, time())
                finished.add(future)
                return

        for _ in range(self.workers):
            submit()
        for future in finished:
            task, since = started.pop(future.key)
            error = future.exception()
            outcome: Outcome | WorkerDied
            if error is None:
                outcome = future.result()
            elif isinstance(error, KilledWorker):
                outcome = WorkerDied(time() - since)
            else:
                raise error
            del future
            submit()
            yield task, outcome


def _guarded(function: Callable[[Task], Outcome], task: Task, time_limit: float) -> Outcome:
    """Run a task; after `time_limit` seconds the process ends, whatever it is doing."""
    with open(os.devnull, "w") as nowhere:  # the traceback would only litter the terminal
        faulthandler.dump_traceback_later(time_limit, exit=True, file=nowhere)
        try:
            return function(task)
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # A worker holds one task and no queue, and a task that kills its worker is not tried again.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": 0,
        # LibRaw's OpenMP does not survive fork.
        "distributed.worker.multiprocessing-method": "spawn",
        # Nothing here spills: samples live for a second, and a big raw must not be paused for ever.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        # Dask gives freed memory back at once: 20,000 page faults an image, 13 % of its time.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 * 2**20,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
        "distributed.logging": {"distributed": "critical"},
        "distributed.admin.tick.limit": "1h",
    }
    for name in ("distributed", "asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        with cluster, Client(cluster) as client:
            client.run(_ignore_interrupt)
            client.register_plugin(_interrupt_plugin())
            yield client


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group; only the coordinator decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt_plugin() -> Any:
    from distributed import WorkerPlugin

    class IgnoreInterrupt(WorkerPlugin):
        name = "ignore-interrupt"

        def setup(self, worker: Any) -> None:
            _ignore_interrupt()

    return IgnoreInterrupt()
