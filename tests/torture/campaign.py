"""What every campaign is made of: kinds of faults, how many were tried, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass
class FaultRow:
    """One kind of fault, one line of the final table.

    Attributes
    ----------
    fault
        The kind, in the words of the table ("one bit flipped in a chunk").
    tried
        How many faults of this kind were made.
    caught
        How many were reported by name, with what is wrong and how to mend it.
    harmless
        How many changed nothing that is stored or derived (a flipped bit in an unused tag).
    survived
        After how many the same command left everything right: nothing lost, no stray file, no
        other sample touched.
    misses
        Every fault that was neither caught nor harmless, or not survived, in words that suffice to
        make it again. An empty list is what the campaign is for.
    """

    fault: str
    tried: int = 0
    caught: int = 0
    harmless: int = 0
    survived: int = 0
    misses: list[str] = field(default_factory=list)

    def record(
        self, *, caught: bool = False, harmless: bool = False, survived: bool = True, what: str
    ) -> None:
        """Count one fault.

        Parameters
        ----------
        caught, harmless, survived
            What came of it. A crash that is simply survived is neither caught nor harmless.
        what
            Described well enough to make it again (seed, file, offset).
        """
        self.tried += 1
        self.caught += caught
        self.harmless += harmless
        self.survived += survived
        if not survived:
            self.misses.append(f"{self.fault}: {what}")

    def miss(self, what: str) -> None:
        """Count one fault that went unnoticed, or did lasting harm."""
        self.record(survived=False, what=what)


@dataclass(frozen=True)
class Scale:
    """How much of a campaign to run.

    Attributes
    ----------
    share
        1.0 is what `make torture` runs; the tests run a small part.
    seed
        Every random choice follows from it.
    """

    share: float = 1.0
    seed: int = 0

    def count(self, full: int, least: int = 1) -> int:
        """`full` at share 1, in proportion below it, never under `least`."""
        return max(least, round(full * self.share))

    def random(self, name: str) -> np.random.Generator:
        """A generator for one part of a campaign; parts do not disturb each other."""
        return np.random.default_rng([self.seed, *name.encode()])


class Campaign(Protocol):
    """A campaign's one function: ``run(scale, folder)`` yields rows as they are finished.

    `folder` is empty, exists, and is the campaign's own; what it holds is thrown away.
    """

    def __call__(self, scale: Scale, folder: Path) -> Iterator[FaultRow]: ...


@dataclass(frozen=True)
class Finished:
    """A campaign with its rows and duration."""

    name: str
    rows: tuple[FaultRow, ...]
    seconds: float


def run_campaign(
    name: str, campaign: Campaign, scale: Scale, folder: Path, told: Callable[[FaultRow], None]
) -> Finished:
    """Run one campaign in `folder`, telling each row as it is finished."""
    started = time.monotonic()
    folder.mkdir(parents=True)
    rows = []
    for row in campaign(scale, folder):
        rows.append(row)
        told(row)
    return Finished(name, tuple(rows), time.monotonic() - started)
