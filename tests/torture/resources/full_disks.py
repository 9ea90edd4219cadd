"""Disks that are full, fail, or must not be written: while an ingest writes a store onto them."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pipeline.ingest.run
import pipeline.store.local.disk
import pipeline.store.local.lock
from pipeline.ingest import IngestOptions, run_ingest
from tests.kit.children import (
    Ended,
    command,
    drop_privileges,
    limit,
    mount_memory,
    nothing,
    private_mounts,
    real,
    remount,
)
from tests.kit.recorder import Recorder
from tests.kit.scenes import RECIPE, Scene, arguments
from tests.kit.trees import tree
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.trials import Verdict, can_mount, tried

PAGE = 4096
_PLENTY = "size=64M,nr_inodes=20000"

#: What of a store a path names, by its end.
_PARTS = {
    r"\.lock[^/]*": "the lock's files",
    r"zarr\.json": "zarr metadata",
    r"packed/c\.[^/]*": "a packed chunk",
    r"resized/c\.[^/]*": "a resized chunk",
    r"sidecars/[^/]*": "a sidecar",
    r"manifest\.jsonl": "the manifest",
}


def run(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    """Every kind of disk; `scenes` are a first ingest and an update."""
    forbidden = tried(can_mount, [folder / "try"])["mounts"].misses
    if forbidden:
        yield FaultRow(f"a disk gets full (skipped: {forbidden[0].splitlines()[0][:60]})")
    else:
        yield from _full(scale, folder, scenes)
    yield from _limited_files(scale, folder, scenes[0])
    yield from _failing(scale, folder, scenes)
    yield from _refusing(scale, folder, scenes, mounts=not forbidden)


@dataclass(frozen=True)
class Small:
    """A disk with little room: so many bytes, or so many files, more than it holds already."""

    scene: Scene
    folder: Path
    pages: int = 0
    files: int = 0
    manifest_every: float = pipeline.ingest.run.MANIFEST_EVERY
    workers: int = 0

    def __str__(self) -> str:
        how = f"{self.pages} pages" if self.pages else f"{self.files} files"
        return f"{self.scene.name}, {how}, {self.workers} workers, {self.manifest_every:g} s"


def fill(small: Small) -> Verdict:
    """Let an ingest run into the end of a disk, make the disk larger, and let it run again."""
    private_mounts()
    mount_memory(small.folder, _PLENTY)
    store = small.folder / "data.zarr"
    small.scene.begin(store)
    held = sum(-(-path.stat().st_blocks * 512 // PAGE) for path in small.folder.rglob("*"))
    inodes = 2 + sum(1 for _ in small.folder.rglob("*"))
    if small.pages:
        remount(small.folder, f"size={(held + small.pages) * PAGE}")
    else:
        remount(small.folder, f"nr_inodes={inodes + small.files}")
    how = arguments(small.scene, store, small.workers)
    if small.workers:
        first = real(*how)
    else:
        first = command(*how, prepare=partial(_write_manifest_every, small.manifest_every))
    wrong, caught = _judged(first, small.scene, store, "No space left on device")
    remount(small.folder, _PLENTY)
    wrong = wrong or _mended(small.scene, store)
    row = "disk full in " + _part(first.err) if small.pages else "no room for another file"
    if small.workers:
        row = "disk full, with two workers"
    return Verdict(row if caught else "disk just large enough", caught, not caught, wrong)


def _write_manifest_every(seconds: float) -> None:
    pipeline.ingest.run.MANIFEST_EVERY = seconds


def _judged(ended: Ended, scene: Scene, store: Path, words: str) -> tuple[str, bool]:
    """What is wrong with a run on a bad disk, "" if nothing; and whether it noticed the disk."""
    left = [
        path.name for path in store.rglob("*") if pipeline.store.local.disk.target_of(path.name)
    ]
    if ended.code == scene.exit_code:
        return scene.wrong(store), False
    if ended.code != 1:
        return f"exit code {ended.code}: {ended}", False
    if words not in ended.err:
        return f"another error: {ended}", True
    return (
        ended.unclear()
        or (f"left {left}" if left else "")
        or (scene.unsound(store) if store.is_dir() else "")
    ), True


def _mended(scene: Scene, store: Path, prepare: Callable[[], None] = nothing) -> str:
    again = command(*arguments(scene, store), prepare=prepare)
    if again.code != scene.exit_code:
        return f"the same command does not continue: {again}"
    return scene.wrong(store)


def _part(err: str) -> str:
    named = re.search(r"^error: (.+?): ", err, re.MULTILINE)
    path = named[1] if named else ""
    return next((part for end, part in _PARTS.items() if re.search(end + "$", path)), "a folder")


def _full(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    rng = scale.random("full disks")
    smalls = []
    for number, scene in enumerate(scenes):
        before = tree(scene.before).values() if scene.before else ()
        room = _pages(scene.wanted.values()) - _pages(before) + 4
        for pages in rng.permutation(room)[: scale.count(room, 5)].tolist():
            every = 30.0 if rng.random() < 0.5 else 0.0
            smalls.append(Small(scene, folder / f"full{number}", 1 + pages, manifest_every=every))
        inodes = rng.permutation(len(scene.wanted) + 3)[: scale.count(12, 2)].tolist()
        smalls += [Small(scene, folder / f"full{number}", files=count) for count in inodes]
    for pages in rng.integers(20, 60, scale.count(4)).tolist():
        smalls.append(Small(scenes[0], folder / "workers", pages, workers=2))
    yield from tried(fill, smalls).values()


def _pages(files: Iterable[bytes]) -> int:
    return sum(-(-len(data) // PAGE) for data in files)


@dataclass(frozen=True)
class Limited:
    """No file may grow beyond so many bytes."""

    scene: Scene
    folder: Path
    most: int

    def __str__(self) -> str:
        return f"{self.scene.name}, files of at most {self.most} bytes"


def limit_files(limited: Limited) -> Verdict:
    """Run an ingest under RLIMIT_FSIZE, then without it."""
    store = limited.folder / "data.zarr"
    limited.scene.begin(store)
    how = arguments(limited.scene, store)
    ended = command(*how, prepare=limit(resource.RLIMIT_FSIZE, limited.most))
    wrong, caught = _judged(ended, limited.scene, store, "File too large")
    wrong = wrong or _mended(limited.scene, store)
    return Verdict("files may not grow any larger (RLIMIT_FSIZE)", caught, not caught, wrong)


def _limited_files(scale: Scale, folder: Path, scene: Scene) -> Iterator[FaultRow]:
    sizes = scale.random("limited files").integers(600, 6000, scale.count(16, 2)).tolist()
    trials = [Limited(scene, folder / f"limited{n}", size) for n, size in enumerate(sizes)]
    yield from tried(limit_files, trials).values()


class FailingOs:
    """Stands in for ``os`` in `store.local.disk` and `lock`; its n-th call fails, done or not.

    Parameters
    ----------
    at
        Which call, from 1; 0: none.
    number
        The error's number.
    lasting
        Whether every later call that writes fails, too, as on a disk that is gone for good.
    """

    CALLS = ("mkdir", "open", "write", "fsync", "close", "replace", "unlink", "rmdir")
    CHANGES = ("mkdir", "write", "replace", "fsync")

    def __init__(self, at: int, number: int, *, lasting: bool = False) -> None:
        self.at, self.number, self.lasting = at, number, lasting
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if name not in self.CALLS:
            return value

        def call(*given: Any) -> Any:
            self.made.append(name)
            count = len(self.made)
            if name == "close":
                value(*given)  # it is closed, whatever it says
            if count == self.at or (0 < self.at < count and self.lasting and name in self.CHANGES):
                raise OSError(self.number, os.strerror(self.number))
            return None if name == "close" else value(*given)

        return call

    def install(self) -> None:
        """Stand in from now on."""
        for module in (pipeline.store.local.disk, pipeline.store.local.lock):
            setattr(module, "os", self)  # noqa: B010  # a module's name is no attribute to mypy


@dataclass(frozen=True)
class Failing:
    """A disk on which one call fails."""

    scene: Scene
    folder: Path
    at: int
    call: str
    number: int
    lasting: bool

    def __str__(self) -> str:
        error = errno.errorcode[self.number]
        return f"{self.scene.name}, call {self.at} ({self.call}) {error}, lasting: {self.lasting}"


def fail(failing: Failing) -> Verdict:
    """Run an ingest on a disk that fails, then on the same disk when it works again."""
    store = failing.folder / "data.zarr"
    failing.folder.mkdir(parents=True)  # making it would shift the numbers of the calls
    failing.scene.begin(store)
    faulty = FailingOs(failing.at, failing.number, lasting=failing.lasting)
    ended = command(*arguments(failing.scene, store), prepare=faulty.install)
    wrong, caught = _judged(ended, failing.scene, store, os.strerror(failing.number))
    if failing.call == "rmdir" and not caught:
        wrong = ""  # an empty folder is left; the next run removes it
    wrong = wrong or _mended(failing.scene, store)
    return Verdict(f"the disk fails: {failing.call}", caught, not caught, wrong)


def _failing(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    rng = scale.random("failing disks")
    trials = list[Failing]()
    for scene in scenes:
        calls = _calls(scene, folder / f"counted-{scene.name}.zarr")
        for name in FailingOs.CALLS:
            places = [at for at, call in enumerate(calls, 1) if call == name]
            some = rng.choice(places, min(len(places), scale.count(7)), replace=False)
            for at in some.tolist():
                number = int(rng.choice([errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS]))
                lasting = bool(rng.random() < 0.3)
                where = folder / f"failing{len(trials)}"
                trials.append(Failing(scene, where, at, name, number, lasting))
    yield from tried(fail, trials).values()


def _calls(scene: Scene, store: Path) -> list[str]:
    """The calls of an ingest on a disk that works."""
    scene.begin(store)
    counting = FailingOs(0, 0)
    with (
        patch("pipeline.store.local.disk.os", counting),
        patch("pipeline.store.local.lock.os", counting),
    ):
        run_ingest([str(scene.sources)], str(store), RECIPE, IngestOptions(), Recorder())
    return counting.made


@dataclass(frozen=True)
class Refusing:
    """A place that a store cannot be in, or only looks as if; `case` names a function below."""

    new: Scene
    old: Scene
    folder: Path
    case: str

    def __str__(self) -> str:
        return self.case


def refuse(refusing: Refusing) -> Verdict | list[Verdict]:
    """Ingest into that place."""
    refusing.folder.mkdir(parents=True, exist_ok=True)
    return _CASES[refusing.case](refusing)


def _verdict(
    case: str,
    scene: Scene,
    store: Path,
    words: str,
    *,
    prepare: Callable[[], None] = nothing,
    code: int = 1,
    mend: Callable[[], object] = nothing,
) -> Verdict:
    """Ingest; with `words` it has to be refused, and to work after `mend`."""
    ended = command(*arguments(scene, store), prepare=prepare)
    if not words:
        done = f"{ended}" if ended.code != scene.exit_code else scene.wrong(store)
        return Verdict(case, harmless=True, miss=done)
    wrong = "" if ended.code == code else f"exit code {ended.code}, not {code}: {ended}"
    wrong = wrong or ended.unclear() or ("" if words in ended.err else f"another error: {ended}")
    mend()
    return Verdict(case, caught=True, miss=wrong or _mended(scene, store))


def _read_only_mount(place: Refusing) -> list[Verdict]:
    private_mounts()
    verdicts = []
    for scene in (place.new, place.old):
        disk = place.folder / scene.name
        mount_memory(disk, _PLENTY)
        scene.begin(disk / "data.zarr")
        remount(disk, "ro")
        verdicts.append(
            _verdict(
                "read-only mount",
                scene,
                disk / "data.zarr",
                "Read-only file system",
                mend=partial(remount, disk, "rw"),
            )
        )
    return verdicts


def _no_permission(place: Refusing) -> list[Verdict]:
    """For the folder around the store, for the store, for one of its folders."""
    verdicts = list[Verdict]()
    group = "data.zarr/nikon-d750_48x32/sidecars"
    for scene, below in ((place.new, "."), (place.old, "data.zarr"), (place.old, group)):
        disk = place.folder / str(len(verdicts))
        disk.mkdir()
        scene.begin(disk / "data.zarr")
        (disk / below).chmod(0o555)
        verdicts.append(
            _verdict(
                "target folder without permission",
                scene,
                disk / "data.zarr",
                "Permission denied",
                prepare=drop_privileges,
                mend=partial((disk / below).chmod, 0o755),
            )
        )
    return verdicts


def _unreadable_chunk(place: Refusing) -> Verdict:
    store = place.folder / "data.zarr"
    place.old.begin(store)
    sorted(store.glob("*/packed/c.*"))[0].chmod(0)
    case = "stored files without permission"
    return _verdict(case, place.old, store, "", prepare=drop_privileges)


def _file_in_the_way(place: Refusing) -> list[Verdict]:
    store, below = place.folder / "file", place.folder / "file" / "data.zarr"
    store.write_text("mine")
    case, mend = "target is a file", partial(os.unlink, store)
    words = "not one of our stores"
    verdicts = [_verdict(case, place.new, store, words, code=10, mend=mend)]
    shutil.rmtree(store)
    store.write_text("mine")
    return [*verdicts, _verdict(case, place.new, below, "Not a directory", mend=mend)]


def _dangling_link(place: Refusing) -> Verdict:
    store, target = place.folder / "data.zarr", place.folder / "unmounted" / "data.zarr"
    store.symlink_to(target)
    case = "target is a link that leads nowhere"
    return _verdict(case, place.new, store, "leads nowhere", mend=partial(os.makedirs, target))


def _odd_places(place: Refusing) -> list[Verdict]:
    (place.folder / "real").mkdir()
    (place.folder / "link").symlink_to(place.folder / "real")
    latin = os.fsdecode(b"caf\xe9")
    names = ["missing/parents/data.zarr", "link", "with space", "new\nline", "'\"$(x)", "-o", latin]
    case = "odd but possible targets (links, spaces, not UTF-8)"
    return [_verdict(case, place.new, place.folder / name, "") for name in names]


def _too_long(place: Refusing) -> Verdict:
    ended = command(*arguments(place.new, place.folder / ("x" * 300)))
    wrong = ended.unclear() or ("" if "File name too long" in ended.err else f"{ended}")
    return Verdict("target whose name is too long", caught=True, miss=wrong)


_CASES: dict[str, Callable[[Refusing], Verdict | list[Verdict]]] = {
    "read-only mount": _read_only_mount,
    "no permission": _no_permission,
    "unreadable chunk": _unreadable_chunk,
    "file in the way": _file_in_the_way,
    "dangling link": _dangling_link,
    "odd places": _odd_places,
    "too long": _too_long,
}


def _refusing(
    scale: Scale, folder: Path, scenes: tuple[Scene, Scene], *, mounts: bool
) -> Iterator[FaultRow]:
    times = scale.count(2)
    trials = [
        Refusing(*scenes, folder / f"{case}{time}", case)
        for case in _CASES
        for time in range(times)
        if mounts or case != "read-only mount"
    ]
    if not mounts:
        yield FaultRow("read-only mount (skipped: this user may not mount)")
    yield from tried(refuse, trials).values()
