"""Too few open files, processes, or bytes of memory; output that cannot be written; signals."""

from __future__ import annotations

import ctypes
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

import pipeline.develop.kernels
import pipeline.ingest.run
import pipeline.raw.rows
import pipeline.store.chunk.encode
from pipeline.ingest.worker import SampleOutcome, SampleTask, develop_source
from tests.kit.children import (
    Ended,
    begun,
    command,
    ended,
    environment,
    limit,
    mount_memory,
    private_mounts,
    real,
)
from tests.kit.scenes import Scene, arguments, large_samples
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.trials import Verdict, tried

_M_MMAP_THRESHOLD = -3  # of mallopt

#: What a signal may end a command with before it has begun to write.
_BY_SIGNAL = {130, -signal.SIGTERM, -signal.SIGHUP}


def run(scale: Scale, folder: Path, scene: Scene) -> Iterator[FaultRow]:
    """All of it; `scene` is a first ingest."""
    yield from _starved(scale, folder, scene)
    yield from _unheard(scale, folder, scene)
    yield from _signalled(scale, folder, scene)
    yield from _without_cache(folder, scene)


def cheap(scale: Scale, folder: Path, scene: Scene) -> Iterator[FaultRow]:
    """What takes no workers and no measuring of moments."""
    yield from _starved(scale, folder, scene, with_workers=False)
    yield from _unheard(scale, folder, scene)


@dataclass(frozen=True)
class Starved:
    """A limit on what a process may have; `kind` is of ``resource.RLIMIT_*``."""

    scene: Scene
    store: Path
    row: str
    kind: int
    most: int
    workers: int = 0
    late: bool = False

    def __str__(self) -> str:
        return f"at most {self.most}, {self.workers} workers, late: {self.late}"


def starve(starved: Starved) -> Verdict:
    """Ingest under the limit, then without it."""
    scene, store = starved.scene, starved.store
    how = arguments(scene, store, starved.workers)
    if starved.workers:
        option = {resource.RLIMIT_NOFILE: "nofile", resource.RLIMIT_AS: "as"}[starved.kind]
        first = real(*how, before=("prlimit", f"--{option}={starved.most}"))
    elif starved.kind == resource.RLIMIT_AS:
        first = command(*how, prepare=partial(_limit_memory, starved.most, late=starved.late))
    else:
        first = command(*how, prepare=limit(starved.kind, starved.most))
    return _verdict(starved.row, scene, store, first)


def _limit_memory(more: int, *, late: bool) -> None:
    """Allow so many bytes of address space more than are in use; late: after the first sample."""

    # Arrays get memory of their own and give it back: what was freed before does not help.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)

    def now() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))

    def develop(task: SampleTask) -> SampleOutcome:
        if task.row:
            now()
        return develop_source(task)

    if late:
        pipeline.ingest.run.develop_source = develop  # type: ignore[attr-defined]
    else:
        now()


def _verdict(row: str, scene: Scene, store: Path, first: Ended) -> Verdict:
    """A run that lacked something: it said so, or was right; and it can be continued."""
    if first.code == scene.exit_code and not scene.wrong(store):
        return Verdict(row, harmless=True)
    wrong = "" if first.code in (1, 3) else f"{first}"
    if first.code == -signal.SIGABRT and row == "out of memory":
        return Verdict(row, caught=True, miss=scene.unsound(store) or scene.mend(store))
    wrong = wrong or first.unclear() or (scene.unsound(store) if store.is_dir() else "")
    again = command(*arguments(scene, store))
    if again.code != scene.exit_code:
        wrong = wrong or f"the same command does not continue: {again}"
    return Verdict(row, caught=True, miss=wrong or scene.wrong(store))


@dataclass(frozen=True)
class FewProcesses:
    """So many processes and threads for a user who has none yet."""

    scene: Scene
    store: Path
    most: int
    user: int

    def __str__(self) -> str:
        return f"at most {self.most}"


def few_processes(few: FewProcesses) -> Verdict:
    """Ingest with two workers as a user of no other processes; the interpreter may be root's."""
    scene, store, row = few.scene, few.store, "out of processes and threads, with two workers"
    store.parent.mkdir(parents=True)
    os.chown(store.parent, few.user, few.user)
    before = ["setpriv", f"--reuid={few.user}", "--clear-groups", "--inh-caps=+dac_read_search"]
    before += ["--ambient-caps=+dac_read_search", "prlimit", f"--nproc={few.most}"]
    impatient = (
        "import cli; from pipeline.runtime import dask_cluster, executor; "
        "dask_cluster.START = executor.PATIENCE = 15.0; cli.prep_main()"
    )
    process = subprocess.Popen(
        [*before, sys.executable, "-c", impatient, *map(str, arguments(scene, store, 2))],
        env=environment(NUMBA_CACHE_DIR=str(_own_cache(store.parent / "cache"))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    first = ended(process)
    if first.code == 130 and "pthread_create failed" in first.err:
        # OpenBLAS sends SIGINT to its own process where it gets no thread.
        return Verdict(row, caught=True)
    # Dask's processes print what they lack before ours says what it means.
    last = "\n".join(first.err.splitlines()[-2:])
    return _verdict(row, scene, store, Ended(first.code, first.out, last))


def _own_cache(folder: Path) -> Path:
    """A copy of what numba has compiled: compiling takes half a minute."""
    for module in (pipeline.store.chunk.encode, pipeline.develop.kernels, pipeline.raw.rows):
        source = Path(str(module.__file__))
        locator: Any = UserProvidedCacheLocator
        own = folder / locator.get_suitable_cache_subpath(str(source))
        own.mkdir(parents=True, exist_ok=True)
        for path in (source.parent / "__pycache__").glob(f"{source.stem}.*.nb?"):
            shutil.copy2(path, own)
    return folder


def _starved(
    scale: Scale, folder: Path, scene: Scene, *, with_workers: bool = True
) -> Iterator[FaultRow]:
    rng = scale.random("starved")
    trials = list[Starved]()

    def add(row: str, kind: int, most: int, workers: int = 0) -> None:
        trials.append(Starved(scene, folder / f"starved{len(trials)}", row, kind, most, workers))

    for most in rng.permutation(range(4, 40))[: scale.count(18, 3)].tolist():
        add("out of file handles", resource.RLIMIT_NOFILE, most)
    for most in rng.integers(30, 110, scale.count(3)).tolist():
        add("out of file handles, with two workers", resource.RLIMIT_NOFILE, most, 2)
    large = large_samples(folder / "large")
    for megabytes in rng.uniform(0, 20, scale.count(24, 3)).tolist():
        store, most = folder / f"starved{len(trials)}", int(megabytes * 2**20)
        late = len(trials) % 2 == 0
        trials.append(Starved(large, store, "out of memory", resource.RLIMIT_AS, most, late=late))
    for megabytes in rng.uniform(300, 1500, scale.count(3)).tolist():
        add("out of memory, with two workers", resource.RLIMIT_AS, int(megabytes * 2**20), 2)
    yield from tried(starve, [one for one in trials if with_workers or not one.workers]).values()
    if not with_workers:
        return
    if os.geteuid() == 0 and shutil.which("setpriv"):
        few = [
            FewProcesses(scene, folder / f"few{number}" / "data.zarr", most, 54321 + number)
            for number, most in enumerate(rng.integers(2, 30, scale.count(4)).tolist())
        ]
        yield from tried(few_processes, few).values()
    else:
        yield FaultRow("out of processes and threads (skipped: only root can become another user)")


@dataclass(frozen=True)
class Unheard:
    """A shell's way to run an ingest whose output goes wrong; `code` is what it should end with."""

    scene: Scene
    store: Path
    shell: str
    code: int

    def __str__(self) -> str:
        return self.shell


def unheard(one: Unheard) -> Verdict:
    """Run a command line whose output cannot be written; the store has to be complete."""
    prep = f"{sys.executable} -m cli"
    words = " ".join(map(str, arguments(one.scene, one.store)))
    line = one.shell.replace("PREP", f"{prep} {words}")
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    wrong = one.scene.wrong(one.store)
    if done.returncode != one.code:
        wrong = wrong or f"exit code {done.returncode}, not {one.code}: {done.stderr[-300:]}"
    if "Traceback" in done.stderr + done.stdout or "Exception ignored" in done.stderr:
        wrong = wrong or f"a traceback: {done.stderr[-300:]}"
    row = "output closed, full, or never open"
    return Verdict(row, caught=one.code == 1, harmless=one.code != 1, miss=wrong)


def close_terminal(scene_and_store: tuple[Scene, Path]) -> Verdict:
    """Run in a terminal of its own that is closed in the middle: SIGHUP, and errors on output."""
    scene, store = scene_and_store
    master, slave = pty.openpty()
    in_terminal = ["setsid", "--ctty", "--wait", sys.executable, "-m", "cli"]
    process = subprocess.Popen(
        [*in_terminal, *map(str, arguments(scene, store))],
        env=environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    while process.poll() is None and not list(store.glob("*/sidecars/*.json")):
        time.sleep(0.001)
    os.close(master)
    code = process.wait(90)
    wrong = "" if code in (130, scene.exit_code) else f"exit code {code}"
    wrong = wrong or scene.unsound(store) or scene.mend(store)
    return Verdict("terminal closed (SIGHUP)", caught=code == 130, harmless=code != 130, miss=wrong)


def _unheard(scale: Scale, folder: Path, scene: Scene) -> Iterator[FaultRow]:
    fine = scene.exit_code
    shells = {
        "PREP | head -c 1 >/dev/null": fine,
        "PREP --json | head -1 >/dev/null": fine,
        "PREP | true": fine,
        "PREP 2>&1 >/dev/null | true": fine,
        "PREP >&- 2>&- <&-": fine,
        "PREP 2>/dev/full": fine,
        "PREP >/dev/full": fine or 1,
        "PREP --json >/dev/full": fine or 1,
    }
    names = list(shells)[:: 1 if scale.share == 1 else 3]
    trials = [Unheard(scene, folder / f"out{n}", one, shells[one]) for n, one in enumerate(names)]
    yield from tried(unheard, trials).values()
    terminals = [(scene, folder / f"terminal{n}") for n in range(scale.count(4))]
    yield from tried(close_terminal, terminals).values()


@dataclass(frozen=True)
class Signalled:
    """Signals at a moment, to the process or to its whole group; some may be ignored."""

    scene: Scene
    store: Path
    row: str
    numbers: tuple[signal.Signals, ...]
    after: float
    workers: int = 0
    ignored: bool = False

    def __str__(self) -> str:
        names = "+".join(number.name for number in self.numbers)
        return f"{names} after {self.after:.3f} s, {self.workers} workers"


def send(signalled: Signalled) -> Verdict:
    """Ingest, interrupted; then the same command again."""
    scene, store = signalled.scene, signalled.store

    if signalled.ignored:  # here, as nohup does: the command is born with it
        signal.signal(signalled.numbers[0], signal.SIG_IGN)
    if signalled.workers:
        first = _send_to_group(signalled)
    else:
        running = begun(*arguments(scene, store))
        time.sleep(signalled.after)
        for number in signalled.numbers:
            running.send(number)
            time.sleep(0.01)
        first = running.ended()
    stopped = first.code != scene.exit_code
    allowed = {scene.exit_code} if signalled.ignored else _BY_SIGNAL | {scene.exit_code}
    wrong = "" if first.code in allowed else f"{first}"
    if first.code == 130 and not any("the same command" in text for text in (first.out, first.err)):
        wrong = wrong or f"it does not say how to go on: {first}"
    if "Traceback" in first.err:
        wrong = wrong or f"{first}"
    if store.is_dir():
        wrong = wrong or scene.unsound(store)
    again = command(*arguments(scene, store))
    if again.code != scene.exit_code:
        wrong = wrong or f"the same command does not continue: {again}"
    row = signalled.row
    return Verdict(row, caught=stopped, harmless=not stopped, miss=wrong or scene.wrong(store))


def _send_to_group(signalled: Signalled) -> Ended:
    """What batch systems do: every process of the run gets the signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments(signalled.scene, signalled.store, 2))],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while process.poll() is None and not (signalled.store / "manifest.jsonl").exists():
        time.sleep(0.001)
    time.sleep(signalled.after)
    for number in signalled.numbers:
        if process.poll() is None:  # else its number may be another process's by now
            os.killpg(process.pid, number)
    return ended(process)


def _signalled(scale: Scale, folder: Path, scene: Scene) -> Iterator[FaultRow]:
    rng = scale.random("signals")
    began = time.monotonic()
    command_row = tried(starve, [Starved(scene, folder / "timed", "", resource.RLIMIT_NOFILE, 999)])
    assert not command_row[""].misses, command_row[""].misses
    duration = time.monotonic() - began
    trials = list[Signalled]()

    def add(row: str, *numbers: signal.Signals, workers: int = 0, ignored: bool = False) -> None:
        after = float(rng.uniform(0, 3.0 if workers else duration))
        store = folder / f"signalled{len(trials)}"
        trials.append(Signalled(scene, store, row, numbers, after, workers, ignored))

    interrupt, terminate, hang_up = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    for number in (interrupt, terminate, hang_up):
        for _ in range(scale.count(12)):
            add(f"{number.name} at a random moment", number)
    for number in (terminate, hang_up):
        for _ in range(scale.count(3)):
            add(f"{number.name} to every process, with two workers", number, workers=2)
    for _ in range(scale.count(6)):
        add("SIGTERM twice", terminate, terminate)
        add("SIGHUP under nohup: the run goes on", hang_up, ignored=True)
    yield from tried(send, trials).values()


def without_cache(scene_and_case: tuple[Scene, Path, str]) -> Verdict:
    """Ingest where numba cannot keep, or cannot read, what it compiled."""
    scene, folder, case = scene_and_case
    cache, store = folder / "cache", folder / "data.zarr"
    cache.mkdir(parents=True)
    if case == "full":
        private_mounts()
        mount_memory(cache, "size=60k")
    done = _with_cache(scene, store, cache)
    if case == "cut off":
        for number, path in enumerate(sorted(cache.rglob("*.nb?"))):
            path.write_bytes(path.read_bytes()[: (number % 3) * 100])
        shutil.rmtree(store)
        done = _with_cache(scene, store, cache)
    wrong = "" if done.code == scene.exit_code else f"{done}"
    row = "numba's cache cannot be kept, or is cut off"
    return Verdict(row, harmless=True, miss=wrong or scene.wrong(store))


def _with_cache(scene: Scene, store: Path, cache: Path) -> Ended:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments(scene, store))],
        env=environment(NUMBA_CACHE_DIR=str(cache)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    return ended(process)


def _without_cache(folder: Path, scene: Scene) -> Iterator[FaultRow]:
    cases = [(scene, folder / f"cache-{case}", case) for case in ("full", "cut off")]
    yield from tried(without_cache, cases).values()
