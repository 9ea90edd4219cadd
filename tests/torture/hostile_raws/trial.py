"""What becomes of one raw: the same steps as a worker's, and a judgement by an independent reading.

Runs in child processes that may die: `Trials` hands them files, notices death and hanging, blames
the one file and starts another child.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rawpy

from pipeline.ingest.failure import Failure
from pipeline.ingest.placement import place
from pipeline.ingest.store_state import StoreState
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import Destination, ProbeTask, SampleTask
from pipeline.ingest.worker import develop_source, probe_source
from pipeline.raw.cross_check import Decision
from pipeline.sources.source import Source
from pipeline.store.local.files import LocalFiles
from pipeline.store.samples import read_level
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar
from tests.kit.orientation import shown

#: Address space of a child: what a file may claim but must never get.
ADDRESS_SPACE = 6 << 30

TIME_LIMIT = 20.0

Outcome = Literal["refused", "same", "valid", "wrong", "unexpected", "died", "hung"]

#: How a worker may be told to decode: as in the midst of an ingest of good files of all these
#: formats (flashraw, compared with LibRaw only for a class not seen yet); as at its beginning
#: (always compared); by LibRaw alone.
MODES = ("auto", "auto, compared", "libraw")


@dataclass(frozen=True)
class Trial:
    """One file to try.

    Attributes
    ----------
    seed
        Name of the good file it was made from.
    what
        What was done to it.
    mode
        Index into `MODES`.
    """

    row: str
    seed: str
    suffix: str
    data: bytes
    what: str
    mode: int


@dataclass(frozen=True)
class Verdict:
    """What became of a trial.

    Attributes
    ----------
    outcome
        ``refused`` with reason and mend; ``same``: stored as the good file is; ``valid``: stored
        otherwise, and LibRaw reads the file just so; ``wrong``: stored otherwise than LibRaw reads
        it; ``unexpected``: an exception that is none of ours.
    told
        The reason, or what is wrong.
    peak, growth
        Most resident memory of the child meanwhile, and how much more than before, bytes.
    """

    outcome: Outcome
    told: str = ""
    peak: int = 0
    growth: int = 0


# --- in the child --------------------------------------------------------------------------------


def _serve(pipe: Connection, folder: str, good: dict[str, tuple[str, bytes]]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "w") as nowhere:  # LibRaw writes its complaints to file 2
        os.dup2(nowhere.fileno(), 2)
    with LocalFiles(Path(folder, "store")).lock() as lease:
        try:
            attempt = _Attempt(Path(folder), lease, good)
        except Exception as error:
            pipe.send(repr(error))
            raise
        pipe.send("ready")
        with suppress(EOFError):
            while True:
                pipe.send(attempt.judged(pipe.recv()))


@dataclass
class _Attempt:
    """Ingests files one by one into a store that is thrown away."""

    folder: Path
    lease: str
    good: dict[str, tuple[str, bytes]]
    _known: dict[tuple[str, int], Sidecar] = field(default_factory=dict)
    _trusted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for suffix, data in self.good.values():
            facts = probe_source(ProbeTask(self._source(suffix, data))).facts
            assert facts is not None
            self._trusted.add(facts.decoder_class)
        for name, (suffix, data) in self.good.items():
            for mode in range(len(MODES)):
                made = self.stored(suffix, data, mode)
                assert isinstance(made, Sidecar), f"the good file {name} is refused: {made.reason}"
                self._known[name, mode] = made

    def _source(self, suffix: str, data: bytes) -> Source:
        path = self.folder / f"a{suffix}"
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
        return Source(path.name, str(path), len(data), 0)

    def judged(self, trial: Trial) -> Verdict:
        """What became of a trial; an exception is none of ours, whoever raised it."""
        try:
            return self._judged(trial)
        except Exception:
            return Verdict("unexpected", traceback.format_exc(limit=-2))

    def _judged(self, trial: Trial) -> Verdict:
        known = self._known[trial.seed, trial.mode]
        _forget_peak()
        before = _peak()
        made = self.stored(trial.suffix, trial.data, trial.mode)
        peak = _peak()
        memory = (peak, peak - before)
        if isinstance(made, Failure):
            ours = made.reason and made.mend and not made.reason.startswith("unexpected ")
            return Verdict("refused" if ours else "unexpected", made.reason, *memory)
        if _content(made) == _content(known):
            return Verdict("same", "", *memory)
        found = _objections(trial.data, made, known, self.folder / "store")
        _fill_freed_memory(trial.data)
        again = self.stored(trial.suffix, trial.data, trial.mode)
        if isinstance(again, Failure) or _content(again) != _content(made):
            found = "not the same when read again"
        return Verdict("wrong" if found else "valid", found, *memory)

    def stored(self, suffix: str, data: bytes, mode: int) -> Sidecar | Failure:
        """Probe, place and develop one file, as an ingest and its workers do."""
        source = self._source(suffix, data)
        recipe = Recipe(fit=(60, 40))
        probed = probe_source(ProbeTask(source))
        item = Item(source, "new")
        placement = place([(item, probed)], StoreState(), recipe, strict=False)
        if placement.refused:
            return placement.refused[0][1]
        (one,) = placement.placed
        decoder_class = one.raw.decoder_class
        by_libraw = MODES[mode] == "libraw" or not decoder_class
        compared = MODES[mode] == "auto, compared" or decoder_class not in self._trusted
        task = SampleTask(
            one,
            Destination(LocalFiles(self.folder / "store"), self.lease, recipe),
            placement.groups[one.raw.group].fixed_point,
            Decision(decoder_class, "libraw" if by_libraw else "genisp", compared),
        )
        outcome = develop_source(task)
        if outcome.store_error is not None:
            raise outcome.store_error
        if outcome.failure is not None:
            return outcome.failure
        assert outcome.sidecar is not None
        return outcome.sidecar


def _fill_freed_memory(data: bytes) -> None:
    """Leave noise where a decoder gets its memory from: what it does not write is noise then."""
    random = np.random.default_rng(len(data))
    sizes = [length for length in range(1 << 12, 1 << 17, 1 << 11)] + [len(data)]
    blocks = [np.frombuffer(random.bytes(size), np.uint8).copy() for size in sizes]
    del blocks


def _content(made: Sidecar) -> tuple[object, ...]:
    """What is stored of an image: pixels (by checksum), levels, matrix, crop, orientation."""
    pixels = {name: (level.crc32c, level.shape) for name, level in made.levels.items()}
    return pixels, made.sensor, made.frame.crop, made.frame.orientation


def _objections(data: bytes, made: Sidecar, known: Sidecar, store: Path) -> str:
    """How a stored sample differs from what LibRaw reads in the file; "" if it does not."""
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            raw.unpack()
            found = [*_fact_differences(raw, made), *_matrix_differences(raw, data, made, known)]
            if not found:
                found = [*_pixel_differences(raw.raw_image, made, store)]
    except rawpy.LibRawError as error:
        return f"stored, but LibRaw says {error}"
    return "; ".join(found)


def _fact_differences(raw: Any, made: Sidecar) -> Iterator[str]:
    frame, sensor, sizes = made.frame, made.sensor, raw.sizes
    black = raw.black_level_per_channel
    if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
        yield "LibRaw finds no 2x2 filter"
        return
    pattern = "".join("RGBG"[index] for index in raw.raw_pattern.ravel())
    x, y = frame.crop.x % 2, frame.crop.y % 2
    pattern = "".join(pattern[2 * ((i + y) % 2) + (j + x) % 2] for i in (0, 1) for j in (0, 1))
    turned = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}[sizes.flip]
    if frame.orientation_flag not in range(1, 9):
        turned = 1  # LibRaw takes the last three bits of anything
    told = {
        "size": (frame.raw_size, (sizes.raw_width, sizes.raw_height)),
        "crop": (_corners(frame.crop), _expected_crop(sizes)),
        "orientation": (frame.orientation, turned),
        "CFA": (sensor.cfa, pattern),
        "black": (sensor.black, tuple(map(float, black))),
        "white": (sensor.white, float(raw.white_level)),
    }
    for name, (ours, theirs) in told.items():
        if ours != theirs:
            yield f"{name} {ours}, LibRaw {theirs}"
    red, green, blue, _ = raw.camera_whitebalance
    # A light that asks for more than 32 times is none.
    known = min(red, green, blue) > 0 and max(red, green, blue) <= 32 * green <= 32 * 32 * min(
        red, blue
    )
    balance = (red / green, 1.0, blue / green) if known else (0.0, 0.0, 0.0)
    if not np.allclose(sensor.as_shot_balance or (0.0, 0.0, 0.0), balance, rtol=1e-6, atol=0):
        yield f"balance {sensor.as_shot_balance}, LibRaw {balance}"


def _matrix_differences(raw: Any, data: bytes, made: Sidecar, known: Sidecar) -> Iterator[str]:
    """LibRaw's matrix; or, of a camera its table lacks, one between those that the DNG brings."""
    ours = np.array(made.sensor.xyz_to_camera)
    libraw = np.array(raw.rgb_xyz_matrix[:3], np.float64)
    if np.abs(ours - libraw).max() <= 1e-6:
        return
    another = made.camera != known.camera  # whose matrix LibRaw gives may be a relative's
    if made.sensor.matrix_source != "file" or (libraw.any() and not another):
        yield f"matrix {ours.tolist()}, LibRaw {libraw.tolist()}"
        return
    brought = _brought_matrices(data)
    if not brought:
        yield f"matrix {ours.tolist()}, the file has none"
        return
    first, last = brought[0], brought[-1]
    apart = [ours - first - share * (last - first) for share in np.linspace(0, 1, 10_001)]
    if min(np.abs(one).max() for one in apart) > 1e-4:
        yield f"matrix {ours.tolist()}, the file's {[one.tolist() for one in brought]}"


def _brought_matrices(data: bytes) -> list[npt.NDArray[np.float64]]:
    """ColorMatrix1 and 2 of a TIFF's first directory, those of nine signed rationals."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    found = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, value = struct.unpack_from(order + "HHII", data, entry)
        if tag in (0xC621, 0xC622) and (kind, length) == (10, 9):
            pairs = np.frombuffer(data, order + "i4", 18, value).reshape(3, 3, 2)
            found[tag] = pairs[..., 0] / pairs[..., 1]
    return [found[tag] for tag in sorted(found)]


def _corners(rect: Any) -> tuple[int, int, int, int]:
    return rect.x, rect.y, rect.width, rect.height


def _expected_crop(sizes: Any) -> tuple[int, int, int, int]:
    """The camera's crop if it lies on the sensor, else the active area; even."""
    x, y = sizes.crop_left_margin, sizes.crop_top_margin
    width, height = sizes.crop_width, sizes.crop_height
    inside = x + width <= sizes.raw_width and y + height <= sizes.raw_height
    if not (width and height and inside):
        x, y, width, height = sizes.left_margin, sizes.top_margin, sizes.width, sizes.height
    width, height = width - x % 2, height - y % 2
    return x + x % 2, y + y % 2, width - width % 2, height - height % 2


def _pixel_differences(mosaic: npt.NDArray[np.uint16], made: Sidecar, store: Path) -> Iterator[str]:
    """Compare the packed level with a plain evaluation of LibRaw's mosaic, to within one code."""
    crop, sensor, level = made.frame.crop, made.sensor, made.levels["packed"]
    part = mosaic[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width].astype(np.float64)
    span = sensor.white - min(sensor.black)
    seen, greens = {}, []
    for position, letter in enumerate(sensor.cfa):
        sites = part[position // 2 :: 2, position % 2 :: 2]
        if letter == "G":
            greens.append((position // 2, sites))
        else:
            seen[letter] = (sites - sensor.black["RB".index(letter) * 2]) / span
    red_row = sensor.cfa.index("R") // 2
    # G1 stands beside R, G2 beside B: colour indices 1 and 3.
    level_of = {row: sensor.black[1 if row == red_row else 3] for row, _ in greens}
    green = sum((sites - level_of[row]) / span for row, sites in greens) / 2
    rgb = np.stack([seen["R"], green, seen["B"]])
    values = np.einsum("ij,jyx->iyx", np.linalg.inv(np.array(sensor.xyz_to_camera)), rgb)
    expected = (values - level.add_offset) / level.scale_factor
    stored = read_level(LocalFiles(store), made, "packed").stored
    difference = np.abs(stored - shown(expected, made.frame.orientation)).max()
    if difference > 1:
        yield f"stored pixels differ from LibRaw's by up to {difference:.0f} codes"


def _forget_peak() -> None:
    """Linux: start measuring the peak of resident memory anew."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    """Peak of resident memory in bytes: since `_forget_peak` on Linux, else of the process."""
    with suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- in the parent -------------------------------------------------------------------------------


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    trial: Trial | None = None
    since: float = 0.0


@dataclass
class Trials:
    """Child processes that try files; one that dies or hangs costs the file it held.

    Parameters
    ----------
    folder
        Where the children work.
    good
        Suffix and bytes of the good files by name.
    """

    folder: Path
    good: dict[str, tuple[str, bytes]]
    count: int = 2
    time_limit: float = TIME_LIMIT
    _children: list[_Child] = field(default_factory=list)
    _started: int = 0

    def run(self, trials: Iterable[Trial]) -> Iterator[tuple[Trial, Verdict]]:
        """Yield each trial with its verdict, as they finish."""
        waiting = iter(trials)
        while len(self._children) < self.count:
            self._children.append(self._start())
        while self._feed(waiting):
            busy = [child for child in self._children if child.trial is not None]
            ready = wait([child.pipe for child in busy], timeout=0.5)
            for child in busy:
                assert child.trial is not None
                trial, verdict = child.trial, None
                if child.pipe in ready:
                    verdict = self._received(child)
                elif time.monotonic() - child.since > self.time_limit:
                    child.process.kill()
                    verdict = Verdict("hung", f"more than {self.time_limit:g} s")
                if verdict is not None:
                    child.trial = None
                    if verdict.outcome in ("died", "hung"):
                        self._replace(child)
                    yield trial, verdict

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.pipe.close()  # idle children end by themselves
            child.process.join(0.0 if child.trial else 5.0)
            child.process.kill()
            child.process.join()
        self._children.clear()

    def _feed(self, waiting: Iterator[Trial]) -> bool:
        """Give every idle child a file; False when nothing is under way any more."""
        for child in self._children:
            if child.trial is None and (trial := next(waiting, None)) is not None:
                child.trial, child.since = trial, time.monotonic()
                child.pipe.send(trial)
        return any(child.trial is not None for child in self._children)

    def _received(self, child: _Child) -> Verdict:
        try:
            verdict = child.pipe.recv()
        except (EOFError, OSError):
            child.process.join()
            return Verdict("died", f"the process ended with {child.process.exitcode}")
        assert isinstance(verdict, Verdict)
        return verdict

    def _start(self) -> _Child:
        self._started += 1
        folder = self.folder / f"child-{self._started}"
        folder.mkdir(parents=True)
        spawn = get_context("spawn")
        here, there = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(there, str(folder), self.good), daemon=True)
        process.start()
        there.close()
        told = here.recv()  # starting up does not count against the first file
        if told != "ready":
            raise RuntimeError(f"a child cannot start: {told}")
        return _Child(process, here)

    def _replace(self, child: _Child) -> None:
        child.pipe.close()
        child.process.join()
        self._children[self._children.index(child)] = self._start()


@contextmanager
def children(folder: Path, good: dict[str, tuple[str, bytes]], count: int = 2) -> Iterator[Trials]:
    """`Trials` that are ended at the end."""
    trials = Trials(folder, good, count)
    try:
        yield trials
    finally:
        trials.close()
