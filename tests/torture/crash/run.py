"""Crashes: SIGKILL at every file operation and at any moment, of any process; and power loss.

After each, the same command runs again. Then the store must be, byte for byte, what an undisturbed
run makes, with no file or folder beside it, and verify must find nothing. At no moment in between
may a sample be committed that is not whole.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.ingest.run import MANIFEST_EVERY
from pipeline.store.keys import MANIFEST_NAME, METADATA_NAME, SIDECARS
from pipeline.store.local.lock import COMMITS_NAME, LOCK_NAME, OWNER_NAME
from tests.kit.file_operations import Operation
from tests.kit.scenes import Scene, first_ingest, update
from tests.torture.campaign import FaultRow, Scale
from tests.torture.crash import processes
from tests.torture.crash.killed_ingest import Death, read_log, run_dying
from tests.torture.crash.power_loss import Disk, promised

KILLED = -signal.SIGKILL


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Every kind of crash; see the module."""
    yield from at_file_operations(scale, folder / "files")
    yield from processes.run(scale, folder / "processes")


def at_file_operations(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Crashes of an ingest without workers, each at an exact file operation."""
    scenes = [first_ingest(folder / "first"), update(folder / "update")]
    yield from _killed_exactly(scale, scenes, folder)
    yield _killed_in_chains(scale, scenes, folder)
    yield from _power_lost(scale, scenes, folder)


@dataclass(frozen=True)
class _Run:
    """One way to run a scene, and every file operation of it, undisturbed."""

    scene: Scene
    manifest_every: float
    operations: tuple[Operation, ...]

    @classmethod
    def record(cls, scene: Scene, manifest_every: float, folder: Path) -> _Run:
        """Run it once and see what it does."""
        store, log = folder / "counted.zarr", folder / "counted.log"
        log.unlink(missing_ok=True)
        scene.begin(store)
        run_dying(scene.sources, store, Death(0, manifest_every=manifest_every, log=log))
        if wrong := scene.wrong(store):
            raise RuntimeError(f"{scene.name}, undisturbed: {wrong}")
        return cls(scene, manifest_every, tuple(read_log(log)))

    def deaths(self) -> Iterator[tuple[str, Death]]:
        """Every moment to die at: before each operation, and in the middle of each write."""
        kind = ""
        for at, operation in enumerate(self.operations, start=1):
            death = Death(at, manifest_every=self.manifest_every)
            if operation.kind != "sync folder":
                kind = moment(operation)
            elif self.operations[at - 2].kind == "sync folder":
                kind = "killed tidying up what an earlier run may have left"
            yield kind, death
            if operation.kind == "write":
                yield (
                    "killed in the middle of a write, half the bytes there",
                    replace(death, half=True),
                )


def moment(operation: Operation) -> str:
    """The kind of moment, in the words of the table, just before an operation."""
    key = Path(operation.key)
    if key.name in (LOCK_NAME, COMMITS_NAME, OWNER_NAME):
        return "killed taking, holding or leaving the lock"
    if operation.kind in ("make folder", "remove folder"):
        return "killed making or removing the folders of a group"
    if key.name == METADATA_NAME:
        return "killed rewriting the zarr metadata, or trimming it"
    if key.name == MANIFEST_NAME:
        return "killed rewriting the manifest"
    if operation.kind == "delete":
        return "killed removing an old sample or its record"
    if key.parent.name == SIDECARS:
        return "killed between chunks and sidecar, or beside the sidecar"
    return "killed writing a chunk, before or after its rename"


def _killed_exactly(scale: Scale, scenes: Iterable[Scene], folder: Path) -> Iterator[FaultRow]:
    """SIGKILL at exactly each file operation: of all, or of as many as the scale allows."""
    rng = scale.random("exact kills")
    rows: dict[str, FaultRow] = {}
    store = folder / "killed.zarr"
    for scene in scenes:
        # As it is, every operation; with a manifest after every sample, some.
        for manifest_every, share in ((MANIFEST_EVERY, 1.0), (0.0, 0.25)):
            one = _Run.record(scene, manifest_every, folder)
            deaths = list(one.deaths())
            count = scale.count(round(share * len(deaths)))
            for index in sorted(rng.choice(len(deaths), count, replace=False)):
                kind, death = deaths[index]
                scene.begin(store)
                code = run_dying(scene.sources, store, death)
                wrong = "" if code == KILLED else f"not killed, exit code {code}"
                wrong = wrong or scene.unsound(store) or scene.mend(store)
                row = rows.setdefault(kind, FaultRow(kind))
                row.record(survived=not wrong, what=f"{scene.name}, {death}: {wrong}")
    yield from rows.values()


def _killed_in_chains(scale: Scale, scenes: Iterable[Scene], folder: Path) -> FaultRow:
    """Kill, run the same command and kill that again, several times."""
    row = FaultRow("killed, run again and killed again, up to 6 times")
    rng = scale.random("chains")
    store = folder / "chain.zarr"
    for scene in scenes:
        for _ in range(scale.count(15)):
            scene.begin(store)
            chain: list[Death] = []
            wrong = ""
            for _ in range(int(rng.integers(2, 7))):
                death = _random_death(rng)
                chain.append(death)
                if run_dying(scene.sources, store, death) != KILLED:
                    break
                wrong = wrong or scene.unsound(store)
            wrong = wrong or scene.mend(store)
            row.record(survived=not wrong, what=f"{scene.name}, {chain}: {wrong}")
    return row


def _random_death(rng: np.random.Generator) -> Death:
    every = float(rng.choice([0.0, MANIFEST_EVERY]))
    return Death(int(rng.integers(1, 220)), manifest_every=every)


def _power_lost(scale: Scale, scenes: Iterable[Scene], folder: Path) -> Iterator[FaultRow]:
    """What the disk may hold if power fails after any operation, and what becomes of it."""
    worst = FaultRow("power lost, nothing unsynced on the disk")
    some = FaultRow("power lost, any part of the unsynced on the disk")
    killed = FaultRow("killed, run again, then power lost")
    rng = scale.random("power loss")
    for number, scene in enumerate(scenes):
        place = folder / f"power-{number}"
        one = Played.record(scene, place / "one", [])
        for at in _moments(rng, len(one.operations), scale.count(60)):
            one.lose_power(worst, at, None)
            one.lose_power(some, at, rng)
        unsynced = _last_syncs(one.operations)
        for attempt in range(scale.count(24)):
            deaths = [Death(int(rng.choice(unsynced)))]
            if rng.random() < 0.5:
                deaths.append(_random_death(rng))
            chain = Played.record(scene, place / f"chain-{attempt}", deaths)
            for at in _moments(rng, len(chain.operations), 1):
                chain.lose_power(killed, at, None if rng.random() < 0.7 else rng)
    yield from (worst, some, killed)


def _last_syncs(operations: Sequence[Operation]) -> list[int]:
    """Before which operations a death leaves something unsynced that no later run writes again.

    The last change in each folder: what is visible after it, the next run must not build on.
    """
    changed = (
        (now.path, at)
        for at, (last, now) in enumerate(pairwise(operations), start=2)
        if now.kind == "sync folder" and last.kind != "sync folder"
    )
    return list(dict(changed).values())


def _moments(rng: np.random.Generator, operations: int, count: int) -> list[int]:
    """`count` different numbers of operations done, the end always among them."""
    chosen = rng.choice(operations, min(count, operations), replace=False)
    return [*sorted(int(at) for at in chosen), operations]


@dataclass(frozen=True)
class Played:
    """A scene played once, killed or not, with all that was done to the disk."""

    scene: Scene
    folder: Path
    deaths: tuple[Death, ...]
    operations: tuple[Operation, ...]

    @classmethod
    def record(cls, scene: Scene, folder: Path, deaths: Iterable[Death]) -> Played:
        """Run to the end, after having been killed as `deaths` say."""
        played = cls(scene, folder, tuple(deaths), ())
        log = folder / "log"
        for place in (played.start, played.store):
            place.parent.mkdir(parents=True)
            scene.begin(place)
        for death in (*played.deaths, Death(0)):
            run_dying(scene.sources, played.store, replace(death, log=log))
        return replace(played, operations=tuple(read_log(log)))

    @property
    def start(self) -> Path:
        """The store as it was before the first run."""
        return self.folder / "start" / "data.zarr"

    @property
    def store(self) -> Path:
        """The store all was done to."""
        return self.folder / "disk" / "data.zarr"

    def lose_power(self, row: FaultRow, at: int, rng: np.random.Generator | None) -> None:
        """Power fails after the first `at` operations; `rng` chooses what survives unsynced."""
        done = self.operations[:at]
        disk = Disk(self.store.parent, self.start.parent)
        for operation in done:
            disk.do(operation)
        left = self.folder / "left"
        shutil.rmtree(left, ignore_errors=True)
        disk.write_what_is_left(left, rng)
        store = left / "data.zarr"
        wrong = self.scene.unsound(store, promised(done, self.store))
        if at == len(self.operations):  # the command has ended: nothing may be missing
            wrong = wrong or self.scene.wrong(store)
        wrong = wrong or self.scene.mend(store)
        what = f"{self.scene.name}, {self.deaths}, power lost after operation {at}: {wrong}"
        row.record(survived=not wrong, what=what)
