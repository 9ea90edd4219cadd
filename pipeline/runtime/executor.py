"""Runs tasks on a local Dask cluster, or in this process. The only module that imports dask.

One task a worker at a time: so when a worker dies, it is known what it was doing. That need not be
why it died: memory may have run out beside it, or somebody killed it. So its task is run once more
after all others, alone, and blamed only if that fails too.

Each task runs under a watchdog that needs no help from the decoder: it ends the process from a C
thread. A worker that gives no sign of life at all (stopped, or stuck in the kernel) is killed by
the scheduler.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import active_children, resource_tracker
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TextIO, TypeVar

from pipeline.errors import GenispError
from pipeline.runtime.interruption import STOP_SIGNALS, never

logger = logging.getLogger(__name__)

#: Seconds beyond the time limit after which a silent worker is taken for stopped.
SILENCE = 10.0

#: Seconds without any worker after which nobody waits for one any more.
PATIENCE = 60.0

#: Open files that a coordinator needs, and more for each worker: half as many again as were seen.
HANDLES = 48
HANDLES_PER_WORKER = 16

#: How often the workers of a cluster are started before it is given up, and how many seconds one
#: start may take. Dask by itself waits for ever for a process that got no thread to report with.
STARTS = 3
START = 120.0

#: Settings of glibc's allocator for a worker, by which the memory of one image is there for the
#: next. Dask's own give it back at once: 20,000 page faults an image, 13 % of its time.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 256 * 2**20, "MALLOC_MMAP_THRESHOLD_": 32 * 2**20}

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

    Raises
    ------
    GenispError
        If the system forbids it.
    """
    import resource

    needed = HANDLES + HANDLES_PER_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fewer = ", or give fewer --workers" if workers else ""
        raise GenispError(
            f"{needed} open files are needed, the system allows {hard}",
            hint=f"allow more (ulimit -n){fewer}, then run the same command",
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
    with _cluster(workers, time_limit) as client:
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
        """What a finished task returned; it is lost if its worker died before handing it over."""
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
        """Dask replaces workers that die; without end, if need be. See that it still can."""
        if self._client.cluster.scheduler.workers:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > PATIENCE:
            raise _no_workers(f"for {PATIENCE:g} s no worker process has stayed alive")


def _guarded(function: Callable[[Task], Outcome], task: Task, time_limit: float) -> Outcome:
    """Run a task; after `time_limit` seconds the process ends, whatever it is doing."""
    with _unheard() as nowhere:  # the traceback would only litter the terminal
        faulthandler.dump_traceback_later(time_limit, exit=True, file=nowhere)
        try:
            return function(task)
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _unheard() -> Iterator[TextIO]:
    """Nothing reaches the terminal meanwhile: LibRaw writes "data corrupted" to file 2 by itself.

    What it finds is told anyway, with the file's name: as the task's failure.
    """
    with open(os.devnull, "w") as nowhere:
        terminal = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield nowhere
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextmanager
def _cluster(workers: int, time_limit: float) -> Iterator[Any]:
    import dask
    from distributed import Client

    settings = {
        # A worker holds one task and no queue, and a task that kills its worker is not tried again.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": 0,
        # The watchdog of a stopped process is stopped too.
        "distributed.scheduler.worker-ttl": f"{time_limit + SILENCE}s",
        # A busy machine may need long to start another worker: it is not given up for that.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.preload": [__name__],  # for `dask_setup`
        # LibRaw's OpenMP does not survive fork.
        "distributed.worker.multiprocessing-method": "spawn",
        # Nothing here spills: samples live for a second, and a big raw must not be paused for ever.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        **{f"distributed.nanny.pre-spawn-environ.{name}": n for name, n in KEPT_MEMORY.items()},
        "distributed.logging": {"distributed": "critical"},
        "distributed.admin.tick.limit": "1h",
        # Dask's web pages would show whoever asks what is being done.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    for name in ("distributed", "asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with (
        _only_ours_imported() as folder,
        dask.config.set(settings | {"temporary-directory": folder}),
        _deaf_loop() as loop,
        _started(workers, loop) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _only_ours_imported() -> Iterator[str]:
    """A folder for Dask; meanwhile nobody else's files are taken for modules.

    Dask puts its scratch folder first on the path of every process, and by itself shares it with
    all users of the machine: this one only its owner may enter. And every process is started by
    ``python -c``, which looks for modules in the current folder first: that may be a data set
    which has a ``pickle.py``.
    """
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    with TemporaryDirectory(prefix="genisp-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = "1"
        try:
            yield folder
        finally:
            sys.path[:] = [place for place in sys.path if not place.startswith(folder)]
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


@contextmanager
def _deaf_loop() -> Iterator[Any]:
    """Dask's event loop, in a thread that signals to stop do not reach.

    They reach the whole process group; only the coordinator's main thread decides what they mean.
    Threads and processes inherit what is blocked, so neither the workers nor anything else that
    is started from this loop hears them. It ends its workers by asking them to, and by SIGKILL:
    the interpreter, which sends SIGTERM to what is left and waits, would wait for ever.
    """
    from distributed.utils import LoopRunner

    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # else it is started later, and unblocks two of them
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        runner.start()
        _keep_steady_time(runner.loop)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()
        for child in active_children():
            if child.name.startswith("Dask"):
                child.kill()


def _started(workers: int, loop: Any) -> Any:
    """A cluster whose workers all came up; Dask gives up at the first that does not."""
    from distributed import LocalCluster

    for _ in range(STARTS):
        try:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # Dask obeys whoever can connect, and to 127.0.0.1 every user of the machine can.
                security=_key_of_our_own(),
                dashboard_address=None,
                # Dask's own choice, 8787, may be taken by another ingest; it warns of that.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
                death_timeout=START,
                loop=loop,
            )
        except Exception as error:  # its assertions, too, where there are no threads left
            reason = str(error.__cause__ or error) or type(error).__name__
    raise _no_workers(f"worker processes do not start ({reason})")


def _key_of_our_own() -> Any:
    """A key of this run's, which nobody else has; workers get it through a pipe.

    As ``Security.temporary`` of Dask makes one, but valid for good: that one's first and last day
    would make a clock that is wrong, or set while we run, refuse our own workers.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from distributed.security import Security

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "genisp")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(1950, 1, 1))
        .not_valid_after(datetime(9999, 12, 31))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    shown = certificate.public_bytes(encoding).decode()
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    hidden = key.private_bytes(encoding, *plain).decode()
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=shown,
        **{f"tls_{role}_cert": shown for role in roles},
        **{f"tls_{role}_key": hidden for role in roles},
    )


def dask_setup(worker: Any) -> None:
    """Called by Dask in a worker before it reports for work: `_keep_steady_time` there, too."""
    _keep_steady_time(worker.loop)


def _keep_steady_time(loop: Any) -> None:
    """Have a loop, and Dask's messages, measure time by a clock that nobody sets.

    Both go by the time of day: if that is set back by an hour, they are silent for an hour.
    """
    import distributed.batched

    loop.time = time.monotonic
    setattr(distributed.batched, "time", time.monotonic)  # noqa: B010  # no name of its own


def _no_workers(message: str) -> GenispError:
    hint = "free memory or give fewer --workers, then run the same command: it continues"
    return GenispError(message, hint=hint)
