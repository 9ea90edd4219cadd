"""An ingest with workers that runs beside the test, to be sent signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.kit.scenes import Scene, arguments

#: Nothing here takes that long; what does has hung.
_HUNG = 120.0


@dataclass
class Running:
    """An ingest with workers, in a session of its own."""

    process: subprocess.Popen[bytes]
    store: Path
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, scene: Scene, store: Path, *options: str) -> Running:
        """``prep ingest`` with two workers and more options."""
        return cls.of(store, "-m", "cli", *map(str, arguments(scene, store, workers=2)), *options)

    @classmethod
    def of(cls, store: Path, *words: str) -> Running:
        """A Python process with these arguments that ingests into `store`."""
        process = subprocess.Popen(
            [sys.executable, *words],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return cls(process, store)

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes that are alive, oldest first."""
        return self._children("spawn_main")

    @property
    def tracker(self) -> list[psutil.Process]:
        """The process in which multiprocessing keeps track of semaphores."""
        return self._children("resource_tracker")

    def _children(self, mark: str) -> list[psutil.Process]:
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error):
                    if mark in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def wait_until(self, reached: Callable[[], object]) -> bool:
        """Wait until something is so; False if the ingest ended before."""
        while self.process.poll() is None:
            if reached():
                return True
            if time.monotonic() - self.started > _HUNG:
                raise RuntimeError(f"nothing happens in {self.store}")
            time.sleep(0.002)
        return False

    def wait_for_more_than(self, samples: int) -> bool:
        """Wait until more samples than that are committed; False if the ingest ended before."""
        return self.wait_until(lambda: self.committed() > samples)

    def wait_for_workers(self) -> bool:
        """Wait until there is a worker process; False if the ingest ended before."""
        return self.wait_until(lambda: self.workers)

    def committed(self) -> int:
        """How many samples are in the store."""
        return len(list(self.store.glob("*/sidecars/*.json")))

    def kill_all(self) -> None:
        """SIGKILL every process of the session, if the first of them still is."""
        if self.process.poll() is None:  # else its number may be another process's by now
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int | None:
        """Its exit code; None if it hung, and was killed."""
        try:
            return self.process.wait(_HUNG)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return None
