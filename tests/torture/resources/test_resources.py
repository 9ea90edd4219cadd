"""The short form of the resources campaign; signals and workers take longer: make torture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kit.scenes import Scene, first_ingest, update
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources import clocks, full_disks, limits, moving_sources, readers, writers

SHORT = Scale(share=0.02)


@pytest.fixture(scope="module", name="scenes")
def _scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Scene]:
    folder = tmp_path_factory.mktemp("scenes")
    return first_ingest(folder / "first"), update(folder / "update")


def _judged(rows: Sequence[FaultRow], *, caught: int) -> None:
    assert [miss for row in rows for miss in row.misses] == []
    tried = {row.fault: row.tried for row in rows}
    assert all(count or "skipped" in fault for fault, count in tried.items()), tried
    assert sum(row.caught for row in rows) >= caught


def test_an_ingest_outlives_disks_that_are_full_fail_or_refuse(
    tmp_path: Path, scenes: tuple[Scene, Scene]
) -> None:
    _judged(list(full_disks.run(SHORT, tmp_path / "disks", scenes)), caught=10)


def test_an_ingest_outlives_too_few_handles_and_too_little_memory(
    tmp_path: Path, scenes: tuple[Scene, Scene]
) -> None:
    _judged(list(limits.cheap(SHORT, tmp_path / "limits", scenes[0])), caught=3)


def test_one_of_several_ingests_writes_and_the_others_are_refused(
    tmp_path: Path, scenes: tuple[Scene, Scene]
) -> None:
    rows = list(writers.run(SHORT, tmp_path / "writers", scenes))
    _judged(rows, caught=6)
    assert len(rows) == 8


def test_a_source_that_changes_meanwhile_is_stored_whole_or_named(tmp_path: Path) -> None:
    rows = list(moving_sources.run(SHORT, tmp_path / "moving"))
    _judged(rows, caught=3)
    assert sum(row.tried for row in rows) == 16


def test_readers_and_training_see_only_committed_samples(
    tmp_path: Path, scenes: tuple[Scene, Scene]
) -> None:
    rows = list(readers.run(SHORT, tmp_path / "readers", scenes))
    _judged(rows, caught=2)
    assert [row.tried for row in rows] == [4, 4, 4]


def test_the_wall_clock_may_jump(tmp_path: Path, scenes: tuple[Scene, Scene]) -> None:
    rows = list(clocks.run(SHORT, tmp_path / "clocks", scenes))
    _judged(rows, caught=0)
    assert sum(row.tried for row in rows) >= 4
