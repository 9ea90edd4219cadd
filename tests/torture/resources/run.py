"""Everything an ingest needs and may lose: disk, files, memory, its sources, the clock, itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.kit.scenes import first_ingest, update
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources import clocks, full_disks, limits, moving_sources, readers, writers


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """All of it."""
    scenes = first_ingest(folder / "first"), update(folder / "update")
    yield from full_disks.run(scale, folder / "disks", scenes)
    yield from limits.run(scale, folder / "limits", scenes[0])
    yield from writers.run(scale, folder / "writers", scenes)
    yield from moving_sources.run(scale, folder / "moving")
    yield from readers.run(scale, folder / "readers", scenes)
    yield from clocks.run(scale, folder / "clocks", scenes)
