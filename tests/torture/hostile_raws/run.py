"""Hostile raws: thousands of spoilt files through the steps of a worker, and through `prep ingest`.

Each fault is one of: refused with reason and mend ("caught"); stored exactly as the good file is
("harmless"); or stored otherwise, and LibRaw, asked directly, reads the file just so without a word
of damage. Those are counted in two rows of their own: a changed header may make another valid raw,
and image data carry no checksum in these formats. Anything else is a miss, and so is any lost image
data that was stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.sample_set import (
    NIKON_D750,
    SONY_RX100M7,
    DngFile,
    Mosaic,
    arw_bytes,
    dng_bytes,
    nef_bytes,
)
from tests.kit.places import NIKON_D1, RAWS
from tests.torture.campaign import FaultRow, Scale
from tests.torture.hostile_raws import fuzz_parsers
from tests.torture.hostile_raws.mixed_ingest import deadly, mixed
from tests.torture.hostile_raws.mutations import MUTATORS, Mutator, Seed
from tests.torture.hostile_raws.trial import MODES, Trial, Verdict, children

#: The most memory a worker may take for a file, whatever the file claims: a good one of these
#: takes up to 50 MB (the real one, 4 MB long, is decoded twice).
MEMORY_GROWTH = 128 << 20

#: And the most it may hold at all.
MEMORY_LIMIT = 1200 << 20

#: How many of the good raws are small: drawn, not real.
SMALL = 7

MEMORY = "memory"
DEATHS = "native crash or hang: costs that file only"
ANOTHER_RAW = "header changes that make another valid raw (LibRaw agrees)"
NO_CHECKSUM = "image data changed (formats carry no checksum; LibRaw agrees)"


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """The campaign; see the module's first words."""
    seeds = good_raws()
    deaths = FaultRow(DEATHS)
    yield from mutated(scale, folder / "mutated", seeds, deaths)
    yield deadly(seeds[:SMALL], folder / "deadly", count=scale.count(6, least=2), row=deaths)
    yield from through_the_command(scale, folder / "command", seeds)
    yield from fuzz_parsers.rows(scale, folder / "fuzz", inputs=20_000)


def good_raws(height: int = 72, width: int = 128, *, real: bool = True) -> list[Seed]:
    """Small files in every real format the sample set writes, and the real raw where it is."""
    crop = (12, 8, width - 12, height - 8)  # down to the last corner: nothing lost goes unseen
    sony = replace(SONY_RX100M7, crop=crop)
    nikon = replace(NIKON_D750, crop=crop)
    big = replace(nikon, byte_order=">")
    dark = replace(big, black=(150,) * 4, orientation=6)
    seen = night(height, width)
    seeds = [
        Seed.of("arw2", ".ARW", arw_bytes(seen, camera=sony), row_bytes=width),
        Seed.of(
            "arw plain",
            ".ARW",
            arw_bytes(seen, compression="uncompressed", camera=sony),
            row_bytes=2 * width,
        ),
        Seed.of("nef lossless", ".NEF", nef_bytes(seen, camera=nikon)),
        Seed.of("nef lossless big-endian", ".NEF", nef_bytes(seen, camera=big)),
        Seed.of(
            "nef plain big-endian",
            ".NEF",
            nef_bytes(seen, compression="uncompressed", camera=big),
            row_bytes=2 * width,
        ),
        Seed.of(
            "nef 12 bit turned",
            ".NEF",
            nef_bytes((seen // 4).astype(np.uint16), compression="packed12", camera=dark),
            row_bytes=width * 3 // 2,
        ),
        Seed.of("dng", ".DNG", _dng(seen, crop), row_bytes=2 * width),
    ]
    found = NIKON_D1
    if real and found.is_file():
        seeds.append(Seed.of("a real D1", ".NEF", found.read_bytes(), row_bytes=2012 * 3 // 2))
    return seeds


def _dng(mosaic: Mosaic, crop: tuple[int, int, int, int]) -> bytes:
    """A DNG of a camera LibRaw knows: levels, crop and matrices stand in tags of its own."""
    dng = DngFile(model="NIKON D750", black=((600, 600), (600, 600)), default_crop=crop)
    return dng_bytes(mosaic, dng=dng)


def night(height: int, width: int) -> Mosaic:
    """A dark scene with a lamp: gradient, shot noise and read noise over black 700."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    light = 60 + 2 * x + 9000 * np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / 60)
    levels = 700 + random.poisson(light) + random.normal(0, 6, light.shape)
    mosaic: Mosaic = np.rint(levels).clip(0, 16383).astype(np.uint16)
    return mosaic


def mutated(scale: Scale, folder: Path, seeds: list[Seed], deaths: FaultRow) -> Iterator[FaultRow]:
    """Every mutator over every seed, through probe and develop in children that may die."""
    rows = {mutator.row: FaultRow(mutator.row) for mutator in MUTATORS}
    another, changed = FaultRow(ANOTHER_RAW), FaultRow(NO_CHECKSUM)
    others = {"header": another, "data": changed}
    judgement = {mutator.row: mutator.judgement for mutator in MUTATORS}
    memory = _Memory()
    good = {seed.name: (seed.suffix, seed.data) for seed in seeds}
    with children(folder, good) as trials:
        for trial, verdict in trials.run(_trials(scale, seeds)):
            what = f"{trial.what} in {trial.seed}, {MODES[trial.mode]}: {verdict.told}"
            other = others.get(judgement[trial.row])
            if verdict.outcome in ("died", "hung"):
                deaths.record(caught=True, what=what)
                continue
            memory.note(verdict, what)
            if verdict.outcome == "refused":
                rows[trial.row].record(caught=True, what=what)
            elif verdict.outcome == "same":
                rows[trial.row].record(harmless=True, what=what)
            elif verdict.outcome == "valid" and other is not None:
                other.record(what=what)
            else:
                rows[trial.row].miss(f"{verdict.outcome}: {what}")
    yield from rows.values()
    yield another
    yield changed
    yield memory.row()


class _Memory:
    """What the children held, file by file."""

    def __init__(self) -> None:
        self.most = self.growth = 0
        self.tried, self.misses = 0, list[str]()

    def note(self, verdict: Verdict, what: str) -> None:
        self.tried += 1
        self.most = max(self.most, verdict.peak)
        self.growth = max(self.growth, verdict.growth)
        if verdict.peak > MEMORY_LIMIT or verdict.growth > MEMORY_GROWTH:
            told = f"{verdict.peak >> 20} MB held, {verdict.growth >> 20} MB more than before"
            self.misses.append(f"{told}: {what}")

    def row(self) -> FaultRow:
        told = f"at most {self.growth >> 20} MB a file, {self.most >> 20} MB a worker"
        row = FaultRow(f"{MEMORY}: {told}", tried=self.tried, misses=self.misses)
        row.survived = self.tried - len(self.misses)
        return row


def _trials(scale: Scale, seeds: list[Seed]) -> Iterator[Trial]:
    for mutator in MUTATORS:
        random = scale.random(mutator.row)
        for number in range(scale.count(mutator.count, least=SMALL)):
            yield _trial(random, mutator, number, seeds)


def _trial(random: np.random.Generator, mutator: Mutator, number: int, seeds: list[Seed]) -> Trial:
    # Small files mostly: a real one takes ten times as long.
    is_real = len(seeds) > SMALL and number % 20 == 19
    seed = seeds[SMALL] if is_real else seeds[number % SMALL]
    data, what = mutator.change(random, seed, seeds)
    # So that every format meets every decoder.
    mode = (number // SMALL + number // 20) % len(MODES)
    return Trial(mutator.row, seed.name, seed.suffix, data, what, mode)


def through_the_command(scale: Scale, folder: Path, seeds: list[Seed]) -> Iterator[FaultRow]:
    """A folder of good and spoilt raws, some of every kind, through `prep ingest`."""
    random = scale.random("command")
    a_kind = scale.count(6, least=1)
    small = seeds[:SMALL]
    trials = [
        _trial(random, mutator, int(random.integers(SMALL)), small)
        for mutator in MUTATORS
        for _ in range(a_kind)
    ]
    hostile = RAWS / "hostile"
    if hostile.is_dir():
        trials += [
            Trial("", path.name, path.suffix, path.read_bytes(), "as it is", 0)
            for path in sorted(hostile.iterdir())
        ]
    yield from mixed(trials, small, folder)
