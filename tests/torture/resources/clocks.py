"""The wall clock jumps, and files have times that cannot be: nothing stored depends on either.

What the package asks the wall clock: how long ago a source was modified (it is left to settle for
a quarter of a second), and what to write into the lock as "since". Durations are monotonic. The
jumps are made by a library that is loaded in front of the C library's clocks; so Dask and its
workers see them, too. Without a C compiler they are left out.

With workers the clock never shows a year before 1950: no certificate can be valid then, so Dask's
processes would refuse each other, with an error or in the end by the time limit.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit.children import Ended, command, ended, environment
from tests.kit.scenes import Scene, arguments, settled, write_sources
from tests.kit.trees import stamps
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.trials import Verdict, tried

_DAY = 86_400.0
_YEAR = 365.25 * _DAY

#: Seconds by which the clock is wrong, or jumps; a number of a year is the time it shows.
JUMPS = {
    "back by a second": -1.0,
    "back by a day": -_DAY,
    "back by ten years": -10 * _YEAR,
    "forward by a day": _DAY,
    "forward by ten years": 10 * _YEAR,
    "to 1970": 1970,
    "to 1903": 1903,
    "to 2100": 2100,
    "to 2200": 2200,  # beyond 2262 Python itself cannot tell the time
}

#: Seconds since 1970.
TIMES = {
    "1970": 0,
    "one nanosecond before 1970": -1e-9,
    "1969": -0.5 * _YEAR,
    "1930": -40 * _YEAR,
    "1980": 315_532_800,
    "2038": 2**31 + 1,
    "2106": 2**32 + 1,
    "2400": 430 * _YEAR,
}

#: These are meant from now on.
SOON = {"a tenth of a second ago": -0.1, "in a tenth of a second": 0.1, "in an hour": 3600.0}

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile double *seconds;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *place = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    seconds = place == MAP_FAILED ? 0 : place;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, now);
    if (seconds && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)*seconds;
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}
"""


@dataclass(frozen=True)
class Jumping:
    """A clock that jumps, after so many seconds (0: before the start), once or again and again."""

    scene: Scene
    store: Path
    library: Path
    jump: str
    after: float
    workers: int = 0
    often: bool = False

    def __str__(self) -> str:
        how = f"{self.workers} workers, again and again: {self.often}"
        return f"{self.jump}, after {self.after:.2f} s, {how}"


def jump(jumping: Jumping) -> Verdict:
    """Ingest while the clock jumps; then once more with a right one."""
    scene, store = jumping.scene, jumping.store
    scene.begin(store)
    offset = store.with_suffix(".offset")
    offset.write_bytes(struct.pack("d", 0.0 if jumping.after else _seconds(jumping.jump)))
    with offset.open("r+b") as file, mmap.mmap(file.fileno(), 8) as place:
        first = _ingest(jumping, offset, place)
    wrong = "" if first.code == scene.exit_code else f"{first}"
    wrong = wrong or ("a traceback" if "Traceback" in first.err else "") or scene.wrong(store)
    again = command(*arguments(scene, store))
    wrong = wrong or ("" if again.code == scene.exit_code else f"again: {again}")
    when = "during an ingest" if jumping.after else "before an ingest"
    row = f"the wall clock jumps {when}" + (", with two workers" if jumping.workers else "")
    return Verdict(row, harmless=True, miss=wrong or scene.wrong(store))


def _seconds(name: str) -> float:
    """What is added to the clock."""
    value = JUMPS[name]
    return (value - 1970) * _YEAR - time.time() if name.startswith("to ") else value


def _ingest(jumping: Jumping, offset: Path, place: mmap.mmap) -> Ended:
    how = arguments(jumping.scene, jumping.store, jumping.workers)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, how)],
        env=environment(LD_PRELOAD=str(jumping.library), CLOCK_OFFSET_FILE=str(offset)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if jumping.after:
        time.sleep(jumping.after)
        place[:8] = struct.pack("d", _seconds(jumping.jump))
        back = True
        while jumping.often and process.poll() is None:
            time.sleep(0.05)
            place[:8] = struct.pack("d", 0.0 if back else _seconds(jumping.jump))
            back = not back
    return ended(process)


def library(folder: Path) -> Path | None:
    """Compile the library of wrong clocks; None where that is not possible."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    source, target = folder / "clocks.c", folder / "clocks.so"
    source.write_text(_SHIM)
    words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(target), str(source), "-ldl"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return None
    offset = folder / "year.offset"
    offset.write_bytes(struct.pack("d", _seconds("to 2100")))
    shown = subprocess.run(
        [sys.executable, "-c", "import time; print(time.gmtime().tm_year, time.time_ns() >> 60)"],
        env=environment(LD_PRELOAD=str(target), CLOCK_OFFSET_FILE=str(offset)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if int(shown[0]) not in (2099, 2100) or int(shown[1]) != time_ns_of(2100) >> 60:
        raise RuntimeError(f"the clock does not jump: {shown}")
    return target


def time_ns_of(year: int) -> int:
    """Nanoseconds from 1970 to about the beginning of a year."""
    return int((year - 1970) * _YEAR * 1e9)


@dataclass(frozen=True)
class Dated:
    """Sources, all or one of them, with a time of change that cannot be."""

    folder: Path
    time: str
    everything: bool

    def __str__(self) -> str:
        return f"{'all files' if self.everything else 'one raw'} of {self.time}"


def date(dated: Dated) -> Verdict:
    """Ingest into a new store, and once more: the second time nothing may be done again."""
    sources = dated.folder / "nod"
    write_sources(sources, damaged=False)
    paths = sorted(sources.glob("*/*" if dated.everything else "*/*.ARW"))
    for path in paths if dated.everything else paths[-1:]:
        _date(path, dated.time)
    dates = {path: path.stat().st_mtime_ns for path in sources.rglob("*.*")}
    row = "sources that were modified long ago, or will be"
    scene = Scene("dated", sources, None)
    store = dated.folder / "data.zarr"
    first = command(*arguments(scene, store))
    fresh = settled(sources, dated.folder)
    wrong = "" if first.code == 0 else f"{first}"
    wrong = wrong or fresh.wrong(store)
    before = stamps(store)
    again = command(*arguments(scene, store))
    if again.code or stamps(store) != before:
        wrong = wrong or f"again: {again}"
    if dates != {path: path.stat().st_mtime_ns for path in dates}:
        wrong = wrong or "the ingest changed a source's time"
    verify = command("verify", store, "--strict", "--sources", sources, "--workers", 0)
    wrong = wrong or ("" if verify.code == 0 else f"verify: {verify}")
    return Verdict(row, harmless=True, miss=wrong)


def _date(path: Path, name: str) -> None:
    seconds = time.time() + SOON[name] if name in SOON else TIMES[name]
    nanoseconds = round(seconds * 1_000_000_000)
    os.utime(path, ns=(nanoseconds, nanoseconds))


def run(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    """All of it; `scenes` are a first ingest and an update."""
    folder.mkdir(parents=True)
    rng = scale.random("clocks")
    shim = library(folder)
    if shim is None:
        yield FaultRow("the wall clock jumps (skipped: no C compiler, or not Linux)")
    else:
        trials = list[Jumping]()
        names = list(JUMPS) if scale.share == 1 else rng.permutation(list(JUMPS))[:2].tolist()
        for number, name in enumerate(names):
            for after in (0.0, *rng.uniform(0.2, 1.6, scale.count(2)).tolist()):
                store = folder / f"jump{len(trials)}.zarr"
                scene = scenes[len(trials) % 2]
                trials.append(Jumping(scene, store, shim, name, after, often=bool(number % 2)))
        for name in names:
            for after in (0.0, float(rng.uniform(0.5, 3))) if name != "to 1903" else ():
                store = folder / f"jump{len(trials)}.zarr"
                trials.append(Jumping(scenes[len(trials) % 2], store, shim, name, after, 2))
        yield from tried(jump, trials).values()
    dates = rng.permutation([*TIMES, *SOON]).tolist()
    dated = [
        Dated(folder / f"dated{number}", name, everything)
        for number, (name, everything) in enumerate(
            (name, everything)
            for name in dates[: scale.count(len(dates), 2)]
            for everything in (False, True)
        )
    ]
    yield from tried(date, dated).values()
