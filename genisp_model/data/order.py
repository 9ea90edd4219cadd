"""Which samples make which batch: a pure function of seed, epoch, rank and world.

Nothing here is drawn from a generator that advances. Every random number is a hash of (seed, epoch,
what it is for, which sample), so any batch of any epoch is found without the ones before it, the
number of threads cannot matter, and no library's next version changes an old run's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint64]

# The increment and the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
_INCREMENT = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = 0xFFFFFFFFFFFFFFFF


class Purpose(IntEnum):
    """What random bits are for: draws of different purposes have nothing to do with each other."""

    SAMPLE_ORDER = 1
    BATCH_ORDER = 2
    FLIP = 3
    EXPOSURE = 4
    SHOT_NOISE = 5
    READ_NOISE = 6
    PIXEL_NOISE = 7
    MATRIX = 8
    SCALE = 9
    WINDOW_X = 10
    WINDOW_Y = 11


def random_bits(items: npt.ArrayLike, *, seed: int, epoch: int, purpose: Purpose) -> BitArray:
    """64 random bits for each item.

    Parameters
    ----------
    items
        (n,) integers, for example positions in a dataset.
    seed, epoch
        Any integers; taken modulo 2^64.
    purpose
        What the bits are for.

    Returns
    -------
    (n,) uint64; the bits of an item depend on it and on the named arguments only.
    """
    key = np.zeros(1, np.uint64)
    for word in (seed, epoch, int(purpose)):
        key = _scrambled(key + np.array([word & _WORD], np.uint64))
    return _scrambled(_scrambled(np.asarray(items).astype(np.uint64)) + key)


def uniform(
    items: npt.ArrayLike, *, seed: int, epoch: int, purpose: Purpose
) -> npt.NDArray[np.float64]:
    """A number inside 0..1, both ends left out, for each item: (n,) -> (n,); see `random_bits`."""
    bits = random_bits(items, seed=seed, epoch=epoch, purpose=purpose)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def chosen(
    positions: npt.ArrayLike, probability: float, *, seed: int, epoch: int, purpose: Purpose
) -> npt.NDArray[np.bool_]:
    """Decide for each position, true with the given probability: (n,) -> (n,) bool."""
    if probability == 0:
        return np.zeros(np.shape(positions), np.bool_)
    bits = random_bits(positions, seed=seed, epoch=epoch, purpose=purpose)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < probability


@dataclass(frozen=True)
class BatchPlan:
    """How the samples of a dataset are cut into batches.

    A batch holds samples of one shape, so that they stack. An epoch permutes the samples, deals
    them to their shapes, cuts each shape's row into batches and permutes the batches; each shape
    ends in one batch that may be short. Ranks take every `world`-th batch.

    Attributes
    ----------
    shape_numbers
        (n,) integers: samples with the same number have the same shape.
    batch_size
        Samples in a full batch.
    seed
        Of the order.
    shuffle
        False: stored order, batches by their first sample.
    drop_last
        True: short batches are left out, and the last few that would not go round all ranks, so
        that every rank makes equally many steps. False: every sample exactly once an epoch over
        all ranks; ranks may differ by one batch.
    rank, world
        Which of how many readers this is.
    """

    shape_numbers: Sequence[int]
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}", mend="1 or more")
        if not 0 <= self.rank < self.world:
            raise UsageError(
                f"rank {self.rank} of world {self.world}", mend="ranks count from 0 to world - 1"
            )

    def all_batches(self, epoch: int) -> list[IntArray]:
        """Every rank's batches of an epoch in order; each holds positions of samples."""
        numbers = np.asarray(self.shape_numbers, dtype=np.int64)
        positions = np.arange(len(numbers), dtype=np.int64)
        if self.shuffle:
            positions = self._shuffled(positions, epoch, Purpose.SAMPLE_ORDER)
        batches: list[IntArray] = []
        for number in np.unique(numbers):
            same = positions[numbers[positions] == number]
            batches += [
                same[start : start + self.batch_size]
                for start in range(0, len(same), self.batch_size)
            ]
        if self.drop_last:
            batches = [batch for batch in batches if len(batch) == self.batch_size]
        if not self.shuffle:
            return sorted(batches, key=lambda batch: int(batch[0]))
        order = self._shuffled(np.arange(len(batches)), epoch, Purpose.BATCH_ORDER)
        return [batches[index] for index in order]

    def batches(self, epoch: int, start: int = 0) -> list[IntArray]:
        """This rank's batches of an epoch.

        Parameters
        ----------
        epoch
            Which epoch.
        start
            Batches all ranks together have done already (a cursor); they may have been another
            number of ranks.
        """
        left = self.all_batches(epoch)[start:]
        if self.drop_last:
            left = left[: len(left) // self.world * self.world]
        return left[self.rank :: self.world]

    def with_seed(self, seed: int) -> BatchPlan:
        """The same plan from another seed."""
        return replace(self, seed=seed)

    def _shuffled(self, items: IntArray, epoch: int, purpose: Purpose) -> IntArray:
        bits = random_bits(items, seed=self.seed, epoch=epoch, purpose=purpose)
        return items[np.argsort(bits, kind="stable")]


@dataclass(frozen=True)
class Cursor:
    """Where reading stands, the same for every rank.

    Attributes
    ----------
    seed, epoch
        Of the order.
    done
        Batches all ranks together have been handed in this epoch.
    plan
        `fingerprint` of what else decides the order; resuming under another plan is refused.
    """

    seed: int
    epoch: int
    done: int
    plan: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or JSON."""
        return {"seed": self.seed, "epoch": self.epoch, "cursor": self.done, "plan": self.plan}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Cursor:
        """The inverse of `to_dict`.

        Raises
        ------
        UsageError
            If `state` is no such state.
        """
        try:
            numbers = int(state["seed"]), int(state["epoch"]), int(state["cursor"])
            return cls(*numbers, plan=str(state["plan"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"not a loader's state: {error!r}", mend="load what state_dict() returned"
            ) from error


def spread_out(ids: Sequence[str], limit: int) -> Sequence[str]:
    """The middle one of each of `limit` equal parts; all if `limit` is 0, or there are no more."""
    if not 0 < limit < len(ids):
        return ids
    return [ids[(2 * part + 1) * len(ids) // (2 * limit)] for part in range(limit)]


def fingerprint(ids: Sequence[str], plan: BatchPlan) -> str:
    """Sixteen hex digits of all that decides the order but seed, epoch, rank and world."""
    digest = hashlib.sha256()
    for text in (*ids, *map(str, plan.shape_numbers)):
        digest.update(text.encode() + b"\n")
    digest.update(f"{plan.batch_size} {plan.shuffle} {plan.drop_last}".encode())
    return digest.hexdigest()[:16]


def _scrambled(words: BitArray) -> BitArray:
    """SplitMix64's finaliser: a bijection of 64-bit words that looks random: (n,) -> (n,)."""
    words = words + np.uint64(_INCREMENT)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return words ^ (words >> np.uint64(31))
