"""A local Dask cluster: closed to other users, with a limit on every wait, leaving no files."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import active_children, resource_tracker
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.errors import GenispError
from pipeline.runtime.interruption import STOP_SIGNALS

#: Seconds beyond the time limit after which a worker that does not answer counts as stopped.
SILENCE = 10.0

#: How many times the workers of a cluster are started before giving up, and how many seconds one
#: start may take. Dask by itself waits forever for a process that could not start the thread it
#: reports with.
STARTS = 3
START = 120.0

#: Settings of glibc's allocator for a worker, by which the memory of one image is kept for the
#: next. With Dask's settings it is given back at once: 20,000 page faults an image, 13 % of its
#: time.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 256 * 2**20, "MALLOC_MMAP_THRESHOLD_": 32 * 2**20}


@contextmanager
def cluster(workers: int, time_limit: float) -> Iterator[Any]:
    """A client of a new cluster with `workers` processes.

    Raises
    ------
    GenispError
        If no worker process can be started.
    """
    import dask
    from distributed import Client

    settings = {
        # A worker holds one task and no queue, and a task that kills its worker is not tried again.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": 0,
        # The watchdog of a stopped process is stopped too, so the scheduler has to notice.
        "distributed.scheduler.worker-ttl": f"{time_limit + SILENCE}s",
        # On a busy machine it may take long to start another worker; that is no reason to give up.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.preload": [__name__],  # for `dask_setup`
        # LibRaw's OpenMP does not survive fork.
        "distributed.worker.multiprocessing-method": "spawn",
        # Nothing is spilled to disk: samples live for a second, and a worker that Dask pauses
        # because of a big raw would never continue.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        **{f"distributed.nanny.pre-spawn-environ.{name}": n for name, n in KEPT_MEMORY.items()},
        "distributed.logging": {"distributed": "critical"},
        "distributed.admin.tick.limit": "1h",
        # Dask's web pages would show everybody on the machine what is being done.
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
    """A scratch folder for Dask; while it is in use, no foreign file is imported as a module.

    Dask puts its scratch folder first on the path of every process, and by default shares it with
    all users of the machine. Only its owner may enter this one. And every process is started by
    ``python -c``, which looks for modules in the current folder first, which may be a data set with
    a ``pickle.py``.
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
    """Dask's event loop, in a thread with `STOP_SIGNALS` blocked.

    These signals are sent to the whole process group, but only the coordinator's main thread shall
    decide what to do about them. Threads and processes inherit what is blocked, so neither the
    workers nor anything else that is started from this loop receives them. Workers are therefore
    ended by asking them to, and then by SIGKILL: the interpreter sends SIGTERM to what is left and
    waits, which would take forever.
    """
    from distributed.utils import LoopRunner

    runner = LoopRunner()
    with _deaf():
        runner.start()
        _keep_steady_time(runner.loop)
    try:
        yield runner.loop
    finally:
        runner.stop()
        for child in active_children():
            if child.name.startswith("Dask"):
                child.kill()


@contextmanager
def _deaf() -> Iterator[None]:
    """Block `STOP_SIGNALS` in this thread, and in threads and processes that are started inside."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no groups of processes to signal
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        # Else it is started later, and unblocks two of the signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(workers: int, loop: Any) -> Any:
    """A cluster all of whose workers have started; Dask gives up at the first that does not."""
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
        except Exception as error:  # also Dask's assertions, if no thread can be started
            reason = str(error.__cause__ or error) or type(error).__name__
    raise no_workers(f"worker processes do not start ({reason})")


def _key_of_our_own() -> Any:
    """A new key for this run; workers get it through a pipe.

    Like Dask's ``Security.temporary``, but valid at any date: with a first and last day, our own
    workers would be refused if the clock is wrong or is set during the run.
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
    """Called by Dask in a worker before it reports to the scheduler (setting ``preload``)."""
    _keep_steady_time(worker.loop)


def _keep_steady_time(loop: Any) -> None:
    """Have a loop, and Dask's messages, measure time by the monotonic clock.

    By default both use the time of day: if that is set back by an hour, they wait for an hour.
    """
    import distributed.batched

    loop.time = time.monotonic
    setattr(distributed.batched, "time", time.monotonic)  # noqa: B010  # no name of its own


def no_workers(message: str) -> GenispError:
    """The error for a machine that starts, or keeps, no worker."""
    mend = "free memory or give fewer --workers, then run the same command: it continues"
    return GenispError(message, mend=mend)
