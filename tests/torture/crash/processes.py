"""SIGKILL and SIGSTOP of real processes: the whole tree, single workers, the coordinator alone."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil

from pipeline.errors import StoreLockedError
from tests.kit.running_ingest import Running
from tests.kit.scenes import Scene, many_samples
from tests.torture.campaign import FaultRow, Scale
from tests.torture.crash.killed_ingest import tokens

#: File operations of a commit: opening the lock on commits, then three puts of five each.
_COMMIT = range(1, 17)


@dataclass
class _Bench:
    """Where the faults of this module are made, and what they have in common."""

    scene: Scene
    folder: Path
    scale: Scale
    _number: int = 0

    @property
    def samples(self) -> int:
        """How many samples an undisturbed run makes."""
        return len(self.scene.sidecars)

    def store(self) -> Path:
        """A path for the next store."""
        self._number += 1
        return self.folder / f"{self._number}.zarr"

    def in_the_middle(self, rng: np.random.Generator, *, pause: float = 0.0) -> tuple[Running, int]:
        """Start a run and wait until some samples are committed, at most half of them.

        Returns the run, and more than how many samples it has; it goes on for up to `pause` seconds
        after that.
        """
        running = Running.start(self.scene, self.store())
        least = int(rng.integers(0, self.samples // 2))
        running.wait_for_more_than(least)
        if pause:
            time.sleep(float(rng.uniform(0, pause)))
        return running, least

    def outcome(self, running: Running) -> str:
        """Wait for a run that was disturbed; what is wrong with what it made, "" if nothing."""
        code = running.finish()
        if code != self.scene.exit_code:
            return f"exit code {code}"
        return self.scene.wrong(running.store)


def _kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to those of them that are still there."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _misbehaving(scene: Scene, store: Path, *options: str) -> Running:
    """An ingest with a worker that sends itself a signal; see `killed_ingest`."""
    module = "tests.torture.crash.killed_ingest"
    return Running.of(store, "-m", module, str(scene.sources), str(store), *options)


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Every fault that takes processes; in a small part of the campaign, some are left out."""
    folder.mkdir(parents=True)
    bench = _Bench(many_samples(folder / "many"), folder, scale)
    for fault in (
        _tree_killed_anywhere,
        _tree_killed_writing,
        _worker_killed,
        _worker_killed_exactly,
        _workers_killed_while_starting,
        _all_workers_killed,
        _workers_killed_for_long,
        _helper_killed,
        _coordinator_killed,
        _orphans_stuck,
        _worker_stopped,
        _all_stopped,
    ):
        yield from (row for row in fault(bench) if row.tried)


def _tree_killed_anywhere(bench: _Bench) -> Iterator[FaultRow]:
    """Moments from the start of the command to its end, most of them before anything is written."""
    row = FaultRow("every process killed at a random moment of the run")
    rng = bench.scale.random("tree, anywhere")
    count = bench.scale.count(15, least=0)
    whole = _seconds(bench) if count else 0.0

    def wait(running: Running) -> str:
        moment = float(rng.uniform(0, whole))
        running.wait_until(lambda: time.monotonic() - running.started > moment)
        return f"after {moment:.2f} s"

    _kill_trees(bench, row, count, wait)
    yield row


def _tree_killed_writing(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("every process killed at a random moment while it writes")
    rng = bench.scale.random("tree, writing")

    def wait(running: Running) -> str:
        least, seconds = int(rng.integers(0, bench.samples)), float(rng.uniform(0, 0.03))
        before = running.committed()
        running.wait_until(lambda: running.committed() >= min(before + least, bench.samples))
        time.sleep(seconds)
        return f"{seconds:.3f} s after {least} samples"

    _kill_trees(bench, row, bench.scale.count(37, least=0), wait)
    yield row


def _kill_trees(bench: _Bench, row: FaultRow, count: int, wait: Callable[[Running], str]) -> None:
    """Kill runs on one store until one ends, or several were killed; then continue to the end."""
    store, in_a_row = bench.store(), 0
    while row.tried < count:
        running = Running.start(bench.scene, store)
        moment = wait(running)
        ended = running.process.poll() is not None
        running.kill_all()
        in_a_row += 1
        wrong = bench.scene.unsound(store)
        if ended or in_a_row == 4 or row.tried == count - 1:
            # Sometimes by the very same command, mostly by what it calls, which is faster.
            if not ended and row.tried % 8 == 3:
                wrong = wrong or bench.outcome(Running.start(bench.scene, store))
            wrong = wrong or bench.scene.mend(store)
            store, in_a_row = bench.store(), 0
        if not ended or wrong:
            row.record(survived=not wrong, what=f"kill {row.tried}, {moment}: {wrong}")


def _seconds(bench: _Bench) -> float:
    """How long the command takes undisturbed."""
    running = Running.start(bench.scene, bench.store())
    if wrong := bench.outcome(running):
        raise RuntimeError(f"undisturbed: {wrong}")
    return time.monotonic() - running.started


def _worker_killed(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("one worker killed at a random moment: the run goes on")
    rng = bench.scale.random("worker")
    for number in range(bench.scale.count(12, least=0)):
        running, least = bench.in_the_middle(rng, pause=0.02)
        which = int(rng.integers(2))
        _kill(running.workers[which : which + 1])
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"{number}, after {least} samples: {wrong}")
    yield row


def _worker_killed_exactly(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("one worker killed at an exact file operation of a commit")
    rng = bench.scale.random("worker, exactly")
    for at in _some(rng, _COMMIT, bench.scale.count(8, least=0)):
        store = bench.store()
        running = _misbehaving(bench.scene, store, "--how", "killed", "--at", str(at))
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"operation {at}: {wrong}")
    yield row


def _workers_killed_while_starting(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("a worker killed while the workers start")
    rng = bench.scale.random("starting")
    for number in range(bench.scale.count(6, least=0)):
        running = Running.start(bench.scene, bench.store())
        running.wait_for_workers()
        delay = float(rng.uniform(0, 2))
        time.sleep(delay)
        _kill(running.workers[:1])
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"{number}, after {delay:.2f} s: {wrong}")
    yield row


def _all_workers_killed(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("all workers killed at once: the run goes on")
    rng = bench.scale.random("all workers")
    for number in range(bench.scale.count(5, least=0)):
        running, least = bench.in_the_middle(rng)
        _kill(running.workers)
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"{number}, after {least} samples: {wrong}")
    yield row


def _workers_killed_for_long(bench: _Bench) -> Iterator[FaultRow]:
    """Files whose worker is killed twice are blamed, by name; --retry-failed takes them back."""
    row = FaultRow("all workers killed again and again, for 5 s")
    rng = bench.scale.random("storm")
    for number in range(bench.scale.count(3, least=0)):
        store = bench.store()
        running = Running.start(bench.scene, store)
        running.wait_until(running.committed)
        until = time.monotonic() + 5
        while time.monotonic() < until and running.process.poll() is None:
            _kill(running.workers)
            time.sleep(float(rng.uniform(0.1, 2)))
        code = running.finish()
        wrong = "" if code in (0, 3) else f"exit code {code}"
        if code == 3:
            wrong = bench.outcome(Running.start(bench.scene, store, "--retry-failed"))
        wrong = wrong or bench.scene.wrong(store)
        row.record(caught=code == 3, survived=not wrong, what=f"{number}: {wrong}")
    yield row


def _helper_killed(bench: _Bench) -> Iterator[FaultRow]:
    row = FaultRow("multiprocessing's resource tracker killed")
    for number in range(bench.scale.count(2, least=0)):
        running = Running.start(bench.scene, bench.store())
        running.wait_until(running.committed)
        _kill(running.tracker)
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"{number}: {wrong}")
    yield row


def _coordinator_killed(bench: _Bench) -> Iterator[FaultRow]:
    """Its workers must end by themselves, and a new ingest at once must not notice them."""
    row = FaultRow("the coordinator killed alone, a new ingest at once")
    rng = bench.scale.random("coordinator")
    for number in range(bench.scale.count(10, least=0)):
        running, least = bench.in_the_middle(rng, pause=0.02)
        workers = running.workers
        running.process.kill()
        running.process.wait()
        wrong = bench.scene.mend(running.store)
        _, alive = psutil.wait_procs(workers, timeout=5)
        wrong = wrong or (f"{len(alive)} workers live on" if alive else "")
        wrong = wrong or bench.scene.wrong(running.store)
        row.record(survived=not wrong, what=f"{number}, after {least} samples: {wrong}")
    yield row


def _orphans_stuck(bench: _Bench) -> Iterator[FaultRow]:
    """Workers that outlive their coordinator because they are stuck in the kernel."""
    refused = FaultRow("an orphan stuck inside a commit: a new ingest is refused")
    waited = FaultRow("an orphan stuck inside a commit for a second: a new ingest waits")
    late = FaultRow("an orphan stuck before a commit, free again after a new ingest")
    rng = bench.scale.random("orphans")
    for at in _some(rng, _COMMIT[1:], bench.scale.count(5, least=0)):
        with _Orphan(bench, at) as orphan, patch("pipeline.store.local.lock.LAST_COMMITS", 0.2):
            told = ""
            try:
                bench.scene.ingest(orphan.store)
            except StoreLockedError as error:
                told = str(error)
            wrong = orphan.free() or bench.scene.mend(orphan.store)
            wrong = wrong or ("" if "still writing" in told else f"not refused: {told}")
            refused.record(caught=bool(told), survived=not wrong, what=f"operation {at}: {wrong}")
    for at in _some(rng, _COMMIT[1:], bench.scale.count(3, least=0)):
        with _Orphan(bench, at) as orphan:
            threading.Timer(1.0, orphan.free).start()
            wrong = bench.scene.mend(orphan.store) or orphan.free()
            waited.record(survived=not wrong, what=f"operation {at}: {wrong}")
    for _ in range(bench.scale.count(3, least=0)):
        with _Orphan(bench, 1) as orphan:
            wrong = bench.scene.mend(orphan.store)
            wrong = wrong or orphan.free() or bench.scene.wrong(orphan.store)
            late.record(survived=not wrong, what=f"operation 1: {wrong}")
    yield from (refused, waited, late)


def _some(rng: np.random.Generator, among: Sequence[int], count: int) -> list[int]:
    return sorted(int(one) for one in rng.choice(among, count, replace=False))


class _Orphan:
    """A worker stuck at an operation of its commit, all that is left of an ingest."""

    def __init__(self, bench: _Bench, at: int) -> None:
        self.store = bench.store()
        self._who, gate = tokens(self.store)
        self._gate = gate.open("w")
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        options = ("--how", "stuck", "--at", str(at))
        running = _misbehaving(bench.scene, self.store, *options)
        if not running.wait_until(lambda: self._who.is_file() and self._who.read_text()):
            raise RuntimeError(f"no worker came to operation {at}")
        self._worker = psutil.Process(int(self._who.read_text()))
        time.sleep(0.1)  # from saying so to being stuck
        others = [worker for worker in running.workers if worker != self._worker]
        running.process.kill()
        running.process.wait()
        psutil.wait_procs(others, timeout=5)
        if not self._worker.is_running():
            raise RuntimeError("the orphan was not stuck")

    def free(self) -> str:
        """Let it go on; what is wrong if it does not end soon."""
        self._gate.close()
        _, alive = psutil.wait_procs([self._worker], timeout=5)
        return "the orphan lives on" if alive else ""

    def __enter__(self) -> _Orphan:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.close()
        _kill([self._worker])


def _worker_stopped(bench: _Bench) -> Iterator[FaultRow]:
    """No watchdog of its own can end it: the scheduler does, and its file is done again."""
    row = FaultRow("a worker stopped for good: ended, its file done again")
    for _ in range(bench.scale.count(2, least=0)):
        store = bench.store()
        options = ("--how", "stopped", "--at", "9", "--time-limit", "2", "--silence", "1")
        running = _misbehaving(bench.scene, store, *options)
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=wrong)
    yield row


def _all_stopped(bench: _Bench) -> Iterator[FaultRow]:
    """Ctrl-Z, or a machine asleep, for longer than the time limit; then on."""
    row = FaultRow("every process stopped beyond the time limit, then continued")
    for number in range(bench.scale.count(2, least=0)):
        store = bench.store()
        running = _misbehaving(bench.scene, store, "--time-limit", "2", "--silence", "1")
        if not running.wait_until(running.committed):
            raise RuntimeError("it ended before anything was committed")
        os.killpg(running.process.pid, signal.SIGSTOP)
        time.sleep(8)
        os.killpg(running.process.pid, signal.SIGCONT)
        wrong = bench.outcome(running)
        row.record(survived=not wrong, what=f"{number}: {wrong}")
    yield row
