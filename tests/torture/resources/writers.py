"""Several ingests and one store: together, one after another's death, with a lock file gone bad."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pipeline.store.local.lock
from pipeline.store.local.lock import COMMITS_NAME, LOCK_NAME, OWNER_NAME
from tests.kit.children import Begun, Ended, begun, command, nothing
from tests.kit.scenes import Scene, arguments
from tests.kit.trees import stamps
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.stopping import (
    LONGEST_INGEST,
    never_waiting,
    operations,
    stop_before,
    stopped,
)
from tests.torture.resources.trials import Verdict, tried

#: Seconds in which a writer that finds another at work has to give up.
_AT_ONCE = 1.5

#: All that an ingest keeps of its lock.
_LOCKS = (LOCK_NAME, COMMITS_NAME, OWNER_NAME)


@dataclass(frozen=True)
class Meeting:
    """A first ingest stopped before an operation, and what another one finds then."""

    scene: Scene
    store: Path
    at: int
    case: str = ""

    def __str__(self) -> str:
        return f"{self.scene.name}, before operation {self.at}, {self.case}"

    def first(self) -> Begun:
        """Start the first one; it is stopped when this returns."""
        self.scene.begin(self.store)
        running = begun(*arguments(self.scene, self.store), prepare=partial(stop_before, self.at))
        if not stopped(running):
            raise RuntimeError(f"it ended before operation {self.at}: {running.ended()}")
        return running

    def second(self, prepare: Callable[[], None] = nothing) -> Ended:
        """Run another one."""
        return command(*arguments(self.scene, self.store), prepare=prepare)

    def finished(self, first: Begun) -> str:
        """Let the first one go on; what is wrong with what it made, "" if nothing."""
        first.send(signal.SIGCONT)
        end = first.ended(LONGEST_INGEST)
        wrong = "" if end.code == self.scene.exit_code else f"the first one: {end}"
        return wrong or self.scene.wrong(self.store)


def refused_second(meeting: Meeting) -> list[Verdict]:
    """A second ingest is refused, changes nothing, and readers work meanwhile."""
    first = meeting.first()
    before, since = stamps(meeting.store), time.monotonic()
    second = meeting.second()
    took = time.monotonic() - since
    wrong = _refusal(second, first.pid if meeting.at else None)
    if took > _AT_ONCE + (pipeline.store.local.lock.NAMING if meeting.at == 0 else 0):
        wrong = wrong or f"refused after {took:.1f} s"
    looked = _looked(meeting.store)
    if stamps(meeting.store) != before:
        wrong = wrong or "the second one, or a reader, changed the store"
    wrong = meeting.finished(first) or wrong
    row = "a second ingest: refused, naming host and pid"
    if meeting.at == 0:
        row = "a second ingest before the first has named itself"
    verify = "prep verify and prep info while an ingest runs"
    return [Verdict(row, caught=True, miss=wrong), Verdict(verify, harmless=True, miss=looked)]


def _refusal(second: Ended, pid: int | None) -> str:
    """What is wrong with how a second ingest was refused, "" if nothing; `pid` is the holder's."""
    who = "another process" if pid is None else f"process {pid} on {socket.gethostname()} since "
    wrong = "" if second.code == 11 else f"not refused: {second}"
    return wrong or second.unclear() or ("" if who in second.err else f"not by name: {second}")


def _looked(store: Path) -> str:
    """What is wrong with what readers say of a store that is being written, "" if nothing."""
    for name in ("verify", "info"):
        done = command(name, store)
        if done.code not in (0, 4, 10) or "Traceback" in done.err + done.out:
            return f"prep {name}: {done}"
        if done.code == 10 and done.unclear():
            return f"prep {name}: {done.unclear()}"
    return ""


@dataclass(frozen=True)
class Race:
    """So many ingests at once."""

    scene: Scene
    store: Path
    count: int

    def __str__(self) -> str:
        return f"{self.scene.name}, {self.count} at once"


def race(one: Race) -> Verdict:
    """Start them together: one gets the lock and stops; all others have to be refused."""
    one.scene.begin(one.store)
    go = one.store.with_suffix(".go")
    how = arguments(one.scene, one.store)

    def wait() -> None:
        while not go.exists():
            time.sleep(0.0005)
        stop_before(1)

    runners = [begun(*how, prepare=wait) for _ in range(one.count)]
    go.touch()
    winners = [runner for runner in runners if stopped(runner)]
    wrong = "" if len(winners) == 1 else f"{len(winners)} hold the lock"
    for runner in runners:
        runner.send(signal.SIGCONT)
    for runner in runners:
        end = runner.ended(LONGEST_INGEST)
        if runner in winners:
            wrong = wrong or ("" if end.code == one.scene.exit_code else f"the winner: {end}")
        elif end.code != 11 or end.unclear():
            wrong = wrong or f"neither first nor refused: {end}"
    wrong = wrong or one.scene.wrong(one.store)
    return Verdict("many ingests started at once: exactly one wins", caught=True, miss=wrong)


def killed_owner(meeting: Meeting) -> Verdict:
    """The next ingest takes over without waiting, whatever the dead one's file says."""
    first = meeting.first()
    first.send(signal.SIGKILL)
    first.ended(LONGEST_INGEST)
    unsound = meeting.scene.unsound(meeting.store)
    row = "SIGKILLed owner: the next ingest takes over at once"
    if meeting.case:
        _spoil(meeting.store / OWNER_NAME, meeting.case)
        row = "the same, its .lock-owner.json says something else"
    second = meeting.second(prepare=never_waiting)
    wrong = unsound or ("" if second.code == meeting.scene.exit_code else f"{second}")
    return Verdict(row, harmless=True, miss=wrong or meeting.scene.wrong(meeting.store))


def spoiled_owner(meeting: Meeting) -> Verdict:
    """While an ingest runs, its .lock-owner.json goes bad: others are refused all the same."""
    first = meeting.first()
    _spoil(meeting.store / OWNER_NAME, meeting.case)
    second = meeting.second()
    wrong = "" if second.code == 11 else f"not refused: {second}"
    wrong = wrong or second.unclear()
    row = ".lock-owner.json goes bad during an ingest"
    return Verdict(row, caught=True, miss=_both_mended(meeting, first, wrong))


def deleted_locks(meeting: Meeting) -> Verdict:
    """Somebody deletes lock files during an ingest, and starts another one."""
    first = meeting.first()
    for name in meeting.case.split("+"):
        (meeting.store / name).unlink(missing_ok=True)
    second = begun(*arguments(meeting.scene, meeting.store), prepare=partial(stop_before, 40))
    waits = stopped(second)
    if waits and meeting.at % 2:  # the second goes on first, or the first
        second.send(signal.SIGCONT)
        stopped(second)
    wrong = _both_mended(meeting, first, "")
    second.send(signal.SIGCONT)
    end = second.ended(LONGEST_INGEST)
    if end.code != meeting.scene.exit_code and (end.code not in (1, 11) or end.unclear()):
        wrong = wrong or f"the second one: {end}"
    wrong = wrong or meeting.scene.unsound(meeting.store) or meeting.scene.mend(meeting.store)
    return Verdict("lock files deleted during an ingest", caught=True, miss=wrong)


def _both_mended(meeting: Meeting, first: Begun, wrong: str) -> str:
    """Let the first one go on: it ends well, or says what is wrong and can be continued."""
    scene, store = meeting.scene, meeting.store
    first.send(signal.SIGCONT)
    end = first.ended(LONGEST_INGEST)
    if end.code != scene.exit_code and (end.code not in (1, 11) or end.unclear()):
        wrong = wrong or f"the first one: {end}"
    wrong = wrong or scene.unsound(store)
    if meeting.case.startswith("."):
        return wrong  # the other one is still at work
    return wrong or scene.mend(store)


def _owner(**fields: object) -> bytes:
    known = {"host": socket.gethostname(), "pid": os.getpid(), "since": "2020", "lease": "00"}
    return json.dumps(known | fields).encode()


#: What may be in a .lock-owner.json, by name.
_CONTENTS: dict[str, Callable[[], bytes]] = {
    "another host": lambda: _owner(host="elsewhere", pid=1),
    "a recycled pid": _owner,
    "init's pid": lambda: _owner(pid=1),
    "an impossible pid": lambda: _owner(pid=10**30),
    "no pid": lambda: _owner(pid=None),
    "pid true": lambda: _owner(pid=True),
    "a negative pid": lambda: _owner(pid=-1),
    "control characters": lambda: _owner(host="\x1b[2J\nerror: none", pid=os.getpid()),
    "garbage": lambda: b"\xff\x00garbage",
    "deeply nested": lambda: b"[" * 100_000,
    "nested within limits": lambda: b'{"a":' * 800 + b"1" + b"}" * 800,
    "endless digits": lambda: b'{"pid": ' + b"9" * 5000 + b"}",
    "a list": lambda: b"[1]",
    "empty": lambda: b"",
}
_OTHERS = ("huge", "missing", "a folder", "a pipe", "a link to itself")
CASES = (*_CONTENTS, *_OTHERS)


def _spoil(path: Path, case: str) -> None:
    path.unlink(missing_ok=True)
    if case in _CONTENTS:
        path.write_bytes(_CONTENTS[case]())
    elif case == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif case == "a folder":
        path.mkdir()
    elif case == "a pipe":
        os.mkfifo(path)
    elif case == "a link to itself":
        path.symlink_to(path)


def run(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    """All of it; `scenes` are a first ingest and an update."""
    folder.mkdir(parents=True)
    rng = scale.random("writers")
    rows: dict[str, FaultRow] = {}
    lengths = [operations(scene, folder / "counted.zarr") for scene in scenes]

    def meetings(what: str, cases: list[str], least: int = 1) -> list[Meeting]:
        found = []
        for number, case in enumerate(cases):
            which = number % 2
            at = int(rng.integers(least, lengths[which]))
            store = folder / f"{what}{number}.zarr"
            found.append(Meeting(scenes[which], store, at, case))
        return found

    rows |= tried(refused_second, meetings("second", [""] * scale.count(60, 3)))
    unnamed = [Meeting(scenes[n % 2], folder / f"unnamed{n}.zarr", 0) for n in range(2)]
    rows |= _without(tried(refused_second, unnamed[: scale.count(2)]), rows)
    races = [Race(scenes[n % 2], folder / f"race{n}.zarr", 8) for n in range(scale.count(20))]
    rows |= tried(race, races)
    rows |= tried(killed_owner, meetings("killed", [""] * scale.count(40, 2)))
    cases = rng.permutation(CASES).tolist()
    rows |= tried(killed_owner, meetings("dead", cases * 2 if scale.share == 1 else cases[:4]))
    rows |= tried(spoiled_owner, meetings("bad", cases if scale.share == 1 else cases[:2]))
    some = ["+".join(one) for one in ((LOCK_NAME,), (COMMITS_NAME,), (OWNER_NAME,), _LOCKS)]
    deleted = some * 6 if scale.share == 1 else some[::3]
    rows |= tried(deleted_locks, meetings("deleted", deleted))
    yield from rows.values()


def _without(new: dict[str, FaultRow], old: dict[str, FaultRow]) -> dict[str, FaultRow]:
    """New rows; what is of a row that is there already is added to that."""
    for name in new.keys() & old.keys():
        row, more = old[name], new[name]
        row.tried += more.tried
        row.caught += more.caught
        row.harmless += more.harmless
        row.survived += more.survived
        row.misses += more.misses
    return {name: row for name, row in new.items() if name not in old}
