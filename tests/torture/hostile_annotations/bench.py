"""Where hostile things are ingested, and how it is judged what became of them.

Each trial is a folder of its own: good raws with boxes, hostile things beside them, and files
around it that nobody may touch. ``prep ingest`` runs on it in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit.small_raws import LONG_AGO, SMALL_FRAME, write_small_raw
from tests.torture.campaign import FaultRow
from tests.torture.hostile_annotations.command_server import (
    Command,
    CommandServer,
    Ended,
)

#: Trials at once; each server has one.
SERVERS = 2
#: More memory than a clean run takes, bytes, if a trial does not say otherwise.
ROOM = 64 << 20

_GOOD = ("Sony/DSC00001.ARW", "Nikon/DSC_0002.NEF")
_GOOD_BOX = [3.25, 4.5, 17.0, 9.0]

#: What a store may hold, whatever its sources are called.
_STORE_FILE = re.compile(
    r"zarr\.json|manifest\.jsonl|\.places\.json|\.lock|\.lock-commits|\.lock-owner\.json"
    r"|[a-z0-9-]+_[0-9]+x[0-9]+/"
    r"(zarr\.json|(packed|resized)/(zarr\.json|c\.[0-9]+\.0\.0\.0)"
    r"|sidecars/(?!zarr\.json$)[A-Za-z0-9_](?!.*\.tmp-)[A-Za-z0-9._-]{0,99}\.json)"
)
#: Bytes; what lies deeper cannot be named.
_LONGEST_PATH = 3800
#: What a terminal would obey, but for the end of a line.
_OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
#: What the live line of a terminal is made of.
_LIVE = re.compile(r"\x1b\[(\?25[lh]|1A|2K|0m|31m|33m|36m|38;5;[0-9]+m)|\r")
_NEVER = re.compile(r"Traceback|unexpected \w+: |please report|Warning:")


def shown_safely(ended: Ended, *, live: bool) -> str:
    """What reached a terminal that should not have, "" if nothing."""
    text = (ended.output + ended.errors).decode(errors="surrogateescape")
    found = _OBEYED.search(_LIVE.sub("", text) if live else text)
    return f"{text[max(0, found.start() - 30) : found.end()]!a} is printed" if found else ""


@dataclass
class Result:
    """One ingest that has ended.

    Attributes
    ----------
    events
        What it printed, as JSON.
    sidecars
        By name of the source.
    """

    ended: Ended
    events: list[dict[str, Any]]
    sidecars: dict[str, dict[str, Any]]
    store: Path

    def told(self, *signs: str) -> bool:
        """Whether all of `signs` are in one event or one finding of a box, with a mend."""
        annotations = [sidecar["annotation"] or {"boxes": ()} for sidecar in self.sidecars.values()]
        of_boxes = [finding for a in annotations for b in a["boxes"] for finding in b["findings"]]
        for about in [*(event.get("finding", event) for event in self.events), *of_boxes]:
            if about.get("severity", "error") == "info" or not about.get("mend"):
                continue
            where = " ".join(str(about.get(k, "")) for k in ("path", "where", "message"))
            if all(sign in where for sign in signs):
                return True
        return False

    def boxes(self, source: str) -> list[list[float]] | None:
        """Boxes a sample has in its sidecar; None if there is no sample or no annotation."""
        annotation = self.sidecars.get(source, {}).get("annotation")
        return None if annotation is None else [box["bbox"] for box in annotation["boxes"]]

    @property
    def failed(self) -> str:
        """What no run may do, "" if it did nothing of that."""
        text = (self.ended.output + self.ended.errors).decode(errors="replace")
        never = _NEVER.search(text)
        if self.ended.code not in (0, 2, 3):
            tail = text[-800:]
            return f"exit code {self.ended.code} after {self.ended.seconds:.1f} s: {tail!r}"
        if never:
            at = never.start()
            return f"{text[max(0, at - 300) : at + 500]!r}"
        return ""


Judge = Callable[[Result], str]


@dataclass(frozen=True)
class Variant:
    """One hostile thing.

    Attributes
    ----------
    what
        Described well enough to make it again.
    signs
        Words that one message about it holds, all of them; none if it is not to be noticed.
    accepted
        What is wrong with what is stored, "" if nothing; None: nothing is, and it must be noticed.
    """

    what: str
    signs: tuple[str, ...] = ()
    accepted: Judge | None = None


@dataclass(frozen=True)
class Trial:
    """Hostile things that are ingested together.

    Attributes
    ----------
    build
        Puts them into the folder of sources it is given.
    sources
        What is named on the command line, from the folder of the trial.
    options
        More of the command line.
    room
        More memory than a clean run takes, bytes.
    thorough
        Whether it is also ingested again, verified, and shown as text.
    """

    name: str
    build: Callable[[Path], Iterable[Variant]]
    sources: tuple[str, ...] = ("nod",)
    options: tuple[str, ...] = ()
    room: int = ROOM
    seconds: int = 60
    thorough: bool = True


@dataclass
class Bench:
    """Runs trials, several at once.

    Attributes
    ----------
    good
        Folder with the good raws and their boxes, which every trial has too.
    clean
        What becomes of these alone.
    """

    folder: Path
    good: Path
    servers: queue.SimpleQueue[CommandServer]
    clean: Result | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def row(self, fault: str, trials: Iterable[Trial]) -> FaultRow:
        """What became of all these."""
        row = FaultRow(fault)
        with ThreadPoolExecutor(SERVERS) as pool:
            # Not `map`: it would take all trials at once, and some are large.
            ended = [pool.submit(self._tried, trial) for trial in trials]
            for one in ended:
                for variant, verdict in one.result():
                    if variant is None:
                        row.misses.append(f"{fault}: {verdict}")
                        continue
                    row.record(
                        caught=verdict == "caught",
                        harmless=verdict == "harmless",
                        survived=verdict in ("caught", "harmless"),
                        what=f"{variant.what}: {verdict}",
                    )
        return row

    def _tried(self, trial: Trial) -> list[tuple[Variant | None, str]]:
        """Run one trial in a folder of its own; what became of each variant, and of the rest."""
        folder = self.folder / f"{next(self._numbers):04d}"
        server = self.servers.get()
        try:
            return self._judged(trial, folder, server)
        except Exception as error:  # a trial that cannot be carried out has to be seen
            return [(None, f"{trial.name} failed itself: {error!r}")]
        finally:
            self.servers.put(server)
            shutil.rmtree(folder, ignore_errors=True)

    def _judged(
        self, trial: Trial, folder: Path, server: CommandServer
    ) -> list[tuple[Variant | None, str]]:
        shutil.copytree(self.good, folder / "nod")
        surround(folder)
        variants = list(trial.build(folder / "nod"))
        before = _everything_but_stores(folder)
        result = self.ingest(trial, folder, server)
        problems = [
            *self._wrong_run(trial, result),
            *(self._wrong_again(trial, folder, server, result) if trial.thorough else ()),
        ]
        touched = _differences(before, _everything_but_stores(folder))
        problems += [f"outside the store: {path!r} {how}" for path, how in touched]
        return [
            *((variant, _verdict(variant, result)) for variant in variants),
            *((None, f"{trial.name}: {problem}") for problem in problems if problem),
        ]

    def ingest(self, trial: Trial, folder: Path, server: CommandServer) -> Result:
        """Run ``prep ingest --json`` on a trial's folder."""
        ended = server.run(_ingest(trial, folder, "data.zarr", "--json"))
        store = folder / "stores" / "data.zarr"
        sidecars = [json.loads(path.read_bytes()) for path in store.glob("*/sidecars/*.json")]
        by_source = {sidecar["source"]["name"]: sidecar for sidecar in sidecars}
        events = [json.loads(line) for line in ended.output.splitlines() if line[:1] == b"{"]
        return Result(ended, events, by_source, store)

    def _wrong_run(self, trial: Trial, result: Result) -> Iterator[str]:
        yield result.failed
        yield shown_safely(result.ended, live=False)
        for path in _files(result.store):
            if not _STORE_FILE.fullmatch(path):
                yield f"in the store: {path!r}"
        if self.clean is None:
            return
        more = result.ended.peak - self.clean.ended.peak
        if more > trial.room:
            yield f"{more >> 20} MiB more memory than a clean run; {trial.room >> 20} are allowed"
        if result.ended.code == 2:
            return  # refused as a whole, for a reason that is judged with its variant
        for name in self.clean.sidecars:
            yield _difference(self.clean, result, name)

    def _wrong_again(
        self, trial: Trial, folder: Path, server: CommandServer, result: Result
    ) -> Iterator[str]:
        """The same command again, a verification, and what people see instead of JSON."""
        if result.ended.code == 2:
            return
        stored = _stored(result.store)
        again = self.ingest(trial, folder, server)
        yield again.failed
        if again.ended.code != result.ended.code or _stored(result.store) != stored:
            yield f"the same command again changes something, and ends with {again.ended.code}"
        whole = server.run(Command(("verify", "stores/data.zarr", "--workers=0"), str(folder)))
        if whole.code:
            yield f"verify: {(whole.output + whole.errors)[-500:]!r}"
        for store, live in (("plain.zarr", False), ("live.zarr", True)):
            told = server.run(_ingest(trial, folder, store, live=live))
            yield shown_safely(told, live=live)
            if told.code != result.ended.code:
                yield f"exit code {told.code} as text, {result.ended.code} as JSON"


@contextmanager
def benches(folder: Path) -> Iterator[Bench]:
    """A bench with running servers in an empty folder."""
    good = folder / "good"
    for number, name in enumerate(_GOOD):
        write_small_raw(good / name, np.random.default_rng(number))
    write_coco(good / "good_train.json", {Path(name).name: [_GOOD_BOX] for name in _GOOD})
    with ExitStack() as stack:
        servers: queue.SimpleQueue[CommandServer] = queue.SimpleQueue()
        for number in range(SERVERS):
            own = folder / f"server-{number}"
            own.mkdir()
            servers.put(stack.enter_context(CommandServer(own)))
        bench = Bench(folder, good, servers)
        clean = Trial("clean", lambda _: ())
        shutil.copytree(good, folder / "clean" / "nod")
        server = servers.get()
        result = bench.ingest(clean, folder / "clean", server)
        servers.put(server)
        if result.ended.code or len(result.sidecars) != len(_GOOD):
            raise RuntimeError(f"the good raws are not ingested: {result.ended}")
        bench.clean = result
        yield bench


# --- building ------------------------------------------------------------------------------------


def surround(folder: Path) -> None:
    """Files that an escape would hit: what is written or changed here is found."""
    for name in ("outside/keep.txt", "stores/../DSC.ARW", "etc/passwd"):
        path = folder / os.path.normpath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("nobody writes here\n")
    (folder / "stores").mkdir()


def raw_like(good: Path, path: Path) -> None:
    """A raw of any name, equal to one that is there.

    A copy: a new link to a file is a change of it, and other trials may be reading it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(good, path)


def coco(boxes: dict[str, list[list[float]]]) -> dict[str, Any]:
    """A COCO document: boxes by file name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, several) in enumerate(boxes.items()):
        width, height = SMALL_FRAME
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for box in several:
            record = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box}
            annotations.append(record)
    categories = [{"id": i, "name": n} for i, n in enumerate(("person", "bicycle", "car"), 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(path: Path, boxes: dict[str, list[list[float]]]) -> None:
    """Write `coco` into a file of long ago."""
    write_old(path, json.dumps(coco(boxes)).encode())


def write_old(path: Path, data: bytes) -> None:
    """Write a file that is not new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (LONG_AGO, LONG_AGO))


def has_boxes(source: str, expected: list[list[float]]) -> Judge:
    """A judge that wants a sample of this source to have these boxes."""

    def judge(result: Result) -> str:
        found = result.boxes(source)
        return "" if found == expected else f"{source!r} has {found}, not {expected}"

    return judge


# --- comparing -----------------------------------------------------------------------------------


def _verdict(variant: Variant, result: Result) -> str:
    if variant.accepted is not None and (wrong := variant.accepted(result)):
        return wrong
    if variant.signs and result.told(*variant.signs):
        return "caught"
    return "harmless" if variant.accepted else f"not noticed (exit code {result.ended.code})"


def _ingest(trial: Trial, folder: Path, store: str, *options: str, live: bool = False) -> Command:
    arguments = ("ingest", *trial.sources, "--store", f"stores/{store}", "--workers=0")
    return Command((*arguments, *trial.options, *options), str(folder), trial.seconds, live)


def _stored(store: Path) -> dict[str, bytes]:
    files = {path: (store / path).read_bytes() for path in _files(store)}
    return {path: data for path, data in files.items() if not path.startswith(".lock")}


def _files(store: Path) -> list[str]:
    return [path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()]


def _difference(clean: Result, result: Result, name: str) -> str:
    """How a good sample differs from that of a clean run, "" if in its row at most."""
    own, wanted = result.sidecars.get(name), clean.sidecars[name]
    if own is None:
        return f"the good raw {name} was not ingested"
    known = {"row", "digest"}
    if {k: v for k, v in own.items() if k not in known} != {
        k: v for k, v in wanted.items() if k not in known
    }:
        return f"the sidecar of the good raw {name} differs"
    if _chunks(result, own) != _chunks(clean, wanted):
        return f"a chunk of the good raw {name} differs"
    return ""


def _chunks(result: Result, sidecar: dict[str, Any]) -> list[bytes]:
    folder = result.store / sidecar["group"]
    levels = sorted(sidecar["levels"])
    return [(folder / level / f"c.{sidecar['row']}.0.0.0").read_bytes() for level in levels]


Facts = dict[bytes, tuple[object, ...]]


def _everything_but_stores(folder: Path) -> Facts:
    """What can be seen of every file around the stores, without opening any."""
    facts: Facts = {}
    pending = [os.fsencode(folder)]
    while pending:
        place = pending.pop()
        for entry in os.scandir(place):
            if len(entry.path) > _LONGEST_PATH:
                continue  # made longer than a path may be: no system call takes it
            status = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            if is_folder and entry.path != os.fsencode(folder / "stores"):
                pending.append(entry.path)
            if entry.path != os.fsencode(folder / "stores"):
                facts[entry.path] = (
                    status.st_mode,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ino,
                )
    return facts


def _differences(before: Facts, after: Facts) -> list[tuple[bytes, str]]:
    new = [(path, "is new") for path in after.keys() - before.keys()]
    gone = [(path, "is gone") for path in before.keys() - after.keys()]
    other = [(p, "is changed") for p in before.keys() & after.keys() if before[p] != after[p]]
    return new + gone + other
