"""Sources that do not hold still: a raw, or its archive, changes while it is being ingested."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import pipeline.ingest.run
import pipeline.ingest.worker
import pipeline.sources.source
import pipeline.sources.zip_archive
from pipeline.ingest.worker import SampleOutcome, SampleTask
from pipeline.sample_set import SONY_RX100M7, write_arw
from pipeline.sources.location import open_location
from tests.kit.children import Ended, command, drop_privileges
from tests.kit.scenes import Scene, arguments, settled, write_sources
from tests.kit.small_raws import LONG_AGO
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.trials import Verdict, tried

#: The raw everything happens to: the last one, so that all keep their rows if it comes later.
_TARGET = Path("Sony") / "DSC01094.ARW"

#: Small enough that the pixels of the small raws here are not probed.
_SHORT_PROBE = 1500

#: What can happen.
CHANGES = (
    "vanishes",
    "is truncated",
    "grows",
    "is replaced by another good one",
    "is rewritten as another good one",
    "is touched",
    "is rewritten, size and time put back",
    "is replaced, size and time put back",
    "becomes a folder",
    "becomes unreadable",
)
_PUT_BACK = "put back"

#: What leaves no good raw, or archive, for the next run.
_BAD = frozenset(
    {"vanishes", "is truncated", "grows", "becomes a folder", "becomes unreadable"},
)

#: When: after a step, or in the n-th reading of the file before, amid and after its bytes.
MOMENTS = (
    "after listing",
    "before probing ends",
    "amid probing",
    "after probing",
    "before its bytes are read",
    "amid its bytes",
    "after its bytes are read",
    "after its commit",
)


@dataclass(frozen=True)
class Moving:
    """One change at one moment.

    Attributes
    ----------
    old, new
        Scenes whose sources are as before, and changed into another good raw (with the time of the
        old one, where that is put back). Only read.
    zipped
        Whether the sources are in an archive, which changes.
    """

    old: Scene
    new: Scene
    folder: Path
    change: str
    moment: str
    zipped: bool
    short_probe: bool

    def __str__(self) -> str:
        what = "the archive" if self.zipped else "the raw"
        return f"{what} {self.change}, {self.moment}, short probe: {self.short_probe}"

    @property
    def place(self) -> Path:
        """Of what changes, below a folder of sources."""
        return Path("nod.zip") if self.zipped else _TARGET


def move(moving: Moving) -> Verdict:
    """Ingest while the source changes; judge what is stored; settle the source; ingest again."""
    sources, store = moving.folder / "nod", moving.folder / "data.zarr"
    shutil.copytree(moving.old.sources, sources)
    scene = Scene("moving", sources, None)
    change = partial(_CHANGES[moving.change], sources / moving.place, moving.new, moving.place)
    first = command(*arguments(scene, store), prepare=partial(_prepare, moving, sources, change))
    happened = _stamp(sources / moving.place) != _stamp(moving.old.sources / moving.place)
    wrong = "" if happened else "nothing happened to the source"
    wrong = wrong or _judged(moving, store, first)
    caught = first.code == 3
    if moving.change in _BAD:
        _remove(sources / moving.place)
        _copy(moving.old.sources / moving.place, sources / moving.place)
    # A member that seems to be damaged is left alone until its archive changes, as is said.
    more = ("--retry-failed",) if moving.zipped and _PUT_BACK in moving.change else ()
    again = command(*arguments(scene, store), *more)
    if again.code != 0:
        wrong = wrong or f"the same command does not mend it: {again}"
    wrong = wrong or _as_undisturbed(moving, store, sources)
    row = f"mid-ingest, {'an archive' if moving.zipped else 'a raw'} {moving.change}"
    return Verdict(row, caught=caught, harmless=not caught, miss=wrong)


def _judged(moving: Moving, store: Path, first: Ended) -> str:
    """What is wrong with a run whose source moved, "" if nothing."""
    if first.code not in (0, 3) or "Traceback" in first.err or "unexpected" in first.err:
        return f"{first}"
    missing = []
    for key in moving.old.sidecars:
        path, known = store / key, (moving.old.wanted[key], moving.new.wanted[key])
        if not path.is_file():
            missing.append(Path(key).stem)
        elif path.read_bytes() not in known:
            return f"{key} is neither the old file's nor the new one's: {path.read_text()}"
    if not moving.zipped and set(missing) - {_TARGET.stem}:
        return f"others are missing, too: {missing}"
    if bool(missing) != (first.code == 3):
        return f"missing {missing}: {first}"
    said = first.out + first.err
    if unnamed := [one for one in missing if one not in said and "nod.zip" not in said]:
        return f"not named: {unnamed}: {first}"
    return moving.old.unsound(store)


def _as_undisturbed(moving: Moving, store: Path, sources: Path) -> str:
    """Whether a store is what an undisturbed ingest of the settled sources makes.

    A source that was changed after it was read, with size and time put back, is not read again.
    """
    fresh = settled(sources, _made(moving.folder / "fresh"))
    wrong = fresh.wrong(store)
    if wrong and _PUT_BACK in moving.change and not moving.old.wrong(store):
        return ""
    return wrong


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _prepare(moving: Moving, sources: Path, change: Callable[[], None]) -> None:
    """In the ingesting process: have the change happen, once, at its moment."""
    drop_privileges()  # else root reads what is unreadable
    if moving.short_probe:
        pipeline.ingest.worker.PROBE_BYTES = _SHORT_PROBE  # type: ignore[attr-defined]
    path, done = sources / moving.place, list[bool]()

    def once() -> None:
        if not done:
            done.append(True)
            change()

    if moving.moment == "after listing":
        _after(pipeline.ingest.run, "gather", once)
    elif moving.moment in ("after probing", "after its commit"):
        _around_commit(moving, once)
    else:
        # An archive is opened to be listed first, and then for whatever is read of it.
        early = 1 + moving.zipped
        probing, at = moving.moment in ("before probing ends", "amid probing"), early
        if not probing:
            at = 0  # as soon as samples are developed
        _in_reading(moving, path, at, once)


def _after(owner: Any, name: str, act: Callable[[], None]) -> None:
    function = getattr(owner, name)

    def then(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        act()
        return result

    setattr(owner, name, then)


def _around_commit(moving: Moving, act: Callable[[], None]) -> None:
    develop = pipeline.ingest.worker.develop_source

    def around(task: SampleTask) -> SampleOutcome:
        target = task.source.name.endswith(_TARGET.name)
        if target and moving.moment == "after probing":
            act()
        outcome = develop(task)
        if target and moving.moment == "after its commit":
            act()
        return outcome

    pipeline.ingest.run.develop_source = around  # type: ignore[attr-defined]


def _in_reading(moving: Moving, path: Path, at: int, act: Callable[[], None]) -> None:
    """Act in the `at`-th reading of a file; 0: in the first one that develops the target."""
    count, developing = 0, False
    develop = pipeline.ingest.worker.develop_source

    def around(task: SampleTask) -> SampleOutcome:
        nonlocal developing
        developing = task.source.name.endswith(_TARGET.name)
        return develop(task)

    def opened(location: str) -> Any:
        nonlocal count
        file = open_location(location)
        if os.path.realpath(location) != os.path.realpath(path):
            return file
        count += 1
        due = count == at if at else developing
        return _Disturbed(file, moving.moment, act) if due else file

    pipeline.ingest.run.develop_source = around  # type: ignore[attr-defined]
    pipeline.sources.source.open_location = opened  # type: ignore[attr-defined]
    pipeline.sources.zip_archive.open_location = opened  # type: ignore[attr-defined]


class _Disturbed:
    """A file in whose longest reading something happens."""

    def __init__(self, file: BinaryIO, moment: str, act: Callable[[], None]) -> None:
        self._file, self._moment, self._act = file, moment, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Disturbed:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, nbytes: int = -1) -> bytes:
        if 0 <= nbytes < 1000:  # a header of an archive
            return self._file.read(nbytes)
        if self._moment.startswith("before"):
            self._act()
        if not self._moment.startswith("amid"):
            data = self._file.read(nbytes)
        else:
            data = self._file.read(700)
            self._act()
            data += self._file.read(nbytes - 700 if nbytes > 0 else nbytes)
        self._act()
        return data


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.lstat()
    except OSError:
        return ()
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _copy(old: Path, path: Path) -> None:
    shutil.copy2(old, path)


def _vanish(path: Path, _new: Scene, _place: Path) -> None:
    path.unlink()


def _truncate(path: Path, _new: Scene, _place: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _grow(path: Path, _new: Scene, _place: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(5000))


def _replace(path: Path, new: Scene, place: Path) -> None:
    shutil.copy2(new.sources / place, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _rewrite(path: Path, new: Scene, place: Path) -> None:
    path.write_bytes((new.sources / place).read_bytes())
    status = (new.sources / place).stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _touch(path: Path, _new: Scene, _place: Path) -> None:
    os.utime(path, (1_650_000_000, 1_650_000_000))


def _put_back(how: Callable[[Path, Scene, Path], None], path: Path, new: Scene, at: Path) -> None:
    before = path.stat()
    how(path, new, at)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if path.stat().st_size != before.st_size:
        raise RuntimeError("the other content has another size")


def _become_folder(path: Path, _new: Scene, _place: Path) -> None:
    path.unlink()
    path.mkdir()


def _lock_up(path: Path, _new: Scene, _place: Path) -> None:
    path.chmod(0)


_CHANGES: dict[str, Callable[[Path, Scene, Path], None]] = dict(
    zip(
        CHANGES,
        (
            _vanish,
            _truncate,
            _grow,
            _replace,
            _rewrite,
            _touch,
            partial(_put_back, _rewrite),
            partial(_put_back, _replace),
            _become_folder,
            _lock_up,
        ),
        strict=True,
    )
)


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Every change, at most moments, to a raw and to an archive, with both lengths of probes."""
    folder.mkdir(parents=True)
    rng = scale.random("moving sources")
    pairs = {
        (zipped, put_back): _pair(folder / f"{zipped}{put_back}", zipped=zipped, put_back=put_back)
        for zipped in (False, True)
        for put_back in (False, True)
    }
    every = [
        (zipped, change, moment, short)
        for zipped in (False, True)
        for change in CHANGES
        for moment in MOMENTS
        for short in (False, True)
    ]
    some = sorted(rng.permutation(len(every))[: scale.count(220, 16)].tolist())
    trials = [
        Moving(
            *pairs[zipped, _PUT_BACK in change],
            folder / f"moving{number}",
            change,
            moment,
            zipped,
            short,
        )
        for number, (zipped, change, moment, short) in ((n, every[n]) for n in some)
    ]
    yield from tried(move, trials).values()


def _pair(folder: Path, *, zipped: bool, put_back: bool) -> tuple[Scene, Scene]:
    """Undisturbed ingests of sources as they are before, and with another good raw in them."""
    old, new = folder / "old" / "nod", folder / "new" / "nod"
    write_sources(old, damaged=False)
    shutil.copytree(old, new)
    mosaic = np.random.default_rng(3).integers(900, 2000, (48, 80)).astype(np.uint16)
    camera = replace(SONY_RX100M7, crop=(16, 8, 48, 32))
    write_arw(new / _TARGET, mosaic, camera=camera, compression="uncompressed")
    before, after = LONG_AGO, LONG_AGO if put_back else 1_640_000_000
    os.utime(new / _TARGET, (after, after))
    if zipped:
        for sources, seconds in ((old, before), (new, after)):
            _zip(sources)
            os.utime(sources / "nod.zip", (seconds, seconds))
    scenes = settled(old, folder / "old"), settled(new, folder / "new")
    if any(scene.exit_code for scene in scenes):
        raise RuntimeError("the sources are not good raws")
    return scenes


def _zip(sources: Path) -> None:
    """Put what a folder holds into an archive in it, with the times it has."""
    with zipfile.ZipFile(sources / "nod.zip", "w") as archive:
        for path in sorted(sources.glob("*/*")):
            archive.write(path, path.relative_to(sources))
    for folder in sources.iterdir():
        with suppress(NotADirectoryError):
            shutil.rmtree(folder)
