"""Damage to a known store: done, judged, undone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.kit.known_store import Faults, KnownStore, Rng
from tests.torture.campaign import FaultRow, Scale


def expect(
    known: KnownStore, row: FaultRow, what: str, owners: Iterable[str], faults: Faults
) -> None:
    """Do one damage, verify, and count it as caught if exactly its owners are named."""
    known.apply(faults)
    verdict = known.verify()
    known.restore()
    if verdict.names(owners):
        row.record(caught=True, what=what)
    else:
        row.miss(f"{what}: expected {sorted(owners)}, got {verdict}")


def mended(known: KnownStore, row: FaultRow, what: str, faults: Faults, count: int = 1) -> None:
    """Do damage (`count` faults), ingest once, compare every byte with the undamaged store."""
    known.apply(faults)
    before = known.verify()
    told = ""
    try:
        known.ingest()
    except Exception as error:  # what a campaign looks for
        told = f"ingest: {type(error).__name__}: {error}"
    differences = known.differences()
    after = known.verify(strict=True)
    if told or differences or after.exit_code:
        row.miss(f"{what}: {told} {differences} {after}")
        known.reset()
        return
    # A file the ingest wrote anew may have another inode and time, but the same bytes.
    known.restore()
    for _ in range(count):
        row.record(caught=before.exit_code == 4, what=what)


def part(items: Sequence[Any], scale: Scale, rng: Rng, least: int = 20) -> list[Any]:
    """The share of `items` that is tried, spread over all of them."""
    count = min(len(items), scale.count(len(items), least))
    return [items[index] for index in sorted(rng.choice(len(items), count, replace=False).tolist())]
