"""Ingests that stop themselves before a file operation, to be met in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pipeline.store.local.lock
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store.local.lock import OWNER_NAME
from tests.kit.children import Begun
from tests.kit.file_operations import Operation, watched, without_waiting
from tests.kit.recorder import Recorder
from tests.kit.scenes import RECIPE, Scene

#: Seconds; an ingest that takes longer has hung.
LONGEST_INGEST = 60.0

_ENTERED: list[AbstractContextManager[object]] = []


def stop_before(at: int) -> None:
    """A preparation: send SIGSTOP to this process before its file operation of that number.

    Counted from 1 after it has said that it holds the lock; 0: before it has said so.
    """
    count = -1

    def watch(operation: Operation, do: Callable[..., Any]) -> Any:
        nonlocal count
        naming = operation.kind == "rename" and operation.target.endswith(OWNER_NAME)
        if count >= 0:
            count += 1
        if count == at or (naming and at == 0):
            os.kill(os.getpid(), signal.SIGSTOP)
        result = without_waiting(operation, do)
        if naming and count < 0:
            count = 0
        return result

    for_good(watched(watch))


def for_good(context: AbstractContextManager[object]) -> None:
    """Enter a context and stay in it until this process ends."""
    context.__enter__()
    _ENTERED.append(context)  # else it is left as soon as nobody holds it


def never_waiting() -> None:
    """A preparation: waiting for a lock is a mistake that ends in a traceback."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"it waits for {seconds} s")

    clock = SimpleNamespace(
        monotonic=time.monotonic, strftime=time.strftime, gmtime=time.gmtime, sleep=refuse
    )
    setattr(pipeline.store.local.lock, "time", clock)  # noqa: B010  # a module's name is no attribute to mypy


def stopped(running: Begun) -> bool:
    """Wait until a process has stopped itself; False if it ended before."""
    until = time.monotonic() + LONGEST_INGEST
    while running.is_running():
        if is_stopped(running):
            return True
        if time.monotonic() > until:
            raise RuntimeError("it neither stops nor ends")
        time.sleep(0.002)
    return False


def is_stopped(running: Begun) -> bool:
    """Whether a process has stopped itself."""
    how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, running.pid, how) is not None


def operations(scene: Scene, store: Path) -> int:
    """How many file operations an ingest does after it has said that it holds the lock."""
    scene.begin(store)
    kinds = list[bool]()

    def watch(operation: Operation, do: Callable[..., Any]) -> Any:
        kinds.append(operation.kind == "rename" and operation.target.endswith(OWNER_NAME))
        return without_waiting(operation, do)

    with watched(watch):
        scene_ingest(scene, store)
    shutil.rmtree(store)
    return len(kinds) - kinds.index(True) - 1


def scene_ingest(scene: Scene, store: Path) -> None:
    """The scene's ingest, by the watcher that is in place."""
    run_ingest([str(scene.sources)], str(store), RECIPE, IngestOptions(), Recorder())
