"""An ingest that dies: at its n-th file operation, by SIGKILL, exactly there.

``run_dying`` runs one in a process of its own; ``python -m tests.torture.crash.killed_ingest`` runs
one with workers, in which a worker kills or stops itself in the middle of a commit.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pipeline.ingest.run
import pipeline.runtime.dask_cluster
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.ingest.worker import SampleOutcome, SampleTask, develop_source
from tests.kit.file_operations import Operation, watched, without_waiting
from tests.kit.recorder import Recorder
from tests.kit.scenes import RECIPE


@dataclass(frozen=True)
class Death:
    """When a process dies.

    Attributes
    ----------
    at
        Before its operation of this number, counted from 1; 0: never.
    half
        In the middle of it instead: half the bytes of a write are in the file.
    manifest_every
        Seconds between manifests, as in `pipeline.ingest.run`; 0 rewrites it after every sample.
    log
        Where the operations that were done are written, for `read_log`; None: nowhere.
    """

    at: int
    half: bool = False
    manifest_every: float = pipeline.ingest.run.MANIFEST_EVERY
    log: Path | None = None


def run_dying(sources: Path, store: Path, death: Death) -> int:
    """Run an ingest in a process of its own; its exit code, -9 if it died."""
    child = _context().Process(target=_die, args=(sources, store, death))
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return code


def read_log(path: Path) -> list[Operation]:
    """The operations a process did before it died, in order."""
    operations = []
    with path.open("rb") as file:
        while file.peek(1):
            operations.append(pickle.load(file))
    return operations


def _context() -> ForkServerContext:
    """A server process that has imported everything, so that each child starts in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kit.warm_ingest", "tests.torture.crash.killed_ingest"])
    return context


def _die(sources: Path, store: Path, death: Death) -> None:
    pipeline.ingest.run.MANIFEST_EVERY = death.manifest_every
    with ExitStack() as stack:
        log = stack.enter_context(death.log.open("ab", buffering=0)) if death.log else None
        count = 0

        def watch(operation: Operation, do: Callable[..., Any]) -> Any:
            nonlocal count
            count += 1
            if count == death.at:
                if death.half:
                    do(operation.data[: len(operation.data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = without_waiting(operation, do)
            if log is not None:
                log.write(pickle.dumps(operation))
            return result

        stack.enter_context(watched(watch))
        how = IngestOptions()
        summary = run_ingest([str(sources)], str(store), RECIPE, how, Recorder())
    os._exit(summary.exit_code)


def main() -> int:
    """Run an ingest with workers, the first of which misbehaves."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.crash.killed_ingest")
    parser.add_argument("sources", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=120.0)
    parser.add_argument("--silence", type=float, default=pipeline.runtime.dask_cluster.SILENCE)
    parser.add_argument("--how", choices=["killed", "stopped", "stuck"])
    parser.add_argument("--at", type=int, default=1, help="operation of the first commit")
    options = parser.parse_args()
    how = IngestOptions(workers=options.workers, time_limit=options.time_limit)
    with ExitStack() as stack:
        stack.enter_context(patch("pipeline.runtime.dask_cluster.SILENCE", options.silence))
        if options.how:
            work = _Misbehaving(options.how, options.at, *tokens(options.store))
            stack.enter_context(patch("pipeline.ingest.run.develop_source", work))
        summary = run_ingest([str(options.sources)], str(options.store), RECIPE, how, Recorder())
    return summary.exit_code


def tokens(store: Path) -> tuple[Path, Path]:
    """Two files beside a store: who misbehaved (its process id), and what it is stuck at.

    A worker that gets stuck waits for a lock on the second file, in a system call and with the
    interpreter's lock held: so nothing in it runs, as if the disk had hung.
    """
    return store.with_name(f"{store.name}.who"), store.with_name(f"{store.name}.gate")


@dataclass(frozen=True)
class _Misbehaving:
    """`develop_source` in a worker that kills or stops itself, or gets stuck, once in a run.

    Parameters
    ----------
    at
        Before this operation of its commit, from 1 (which is opening the lock on commits).
    who, gate
        See `tokens`.
    """

    how: str
    at: int
    who: Path
    gate: Path

    def __call__(self, task: SampleTask) -> SampleOutcome:
        count = 0

        def watch(operation: Operation, do: Callable[..., Any]) -> Any:
            nonlocal count
            count += 1
            if count == self.at and self._first():
                self._misbehave()
            return do()

        with watched(watch):
            return develop_source(task)

    def _first(self) -> bool:
        try:
            with self.who.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return False
        return True

    def _misbehave(self) -> None:
        if self.how == "stuck":
            with self.gate.open() as gate:
                ctypes.PyDLL(None).flock(gate.fileno(), fcntl.LOCK_EX)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.how == "killed" else signal.SIGSTOP)


if __name__ == "__main__":
    sys.exit(main())
