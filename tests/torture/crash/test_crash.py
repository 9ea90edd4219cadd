from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.scenes import first_ingest
from tests.torture.campaign import FaultRow, Scale
from tests.torture.crash import processes
from tests.torture.crash.run import Played, at_file_operations


def assert_survived(rows: list[FaultRow]) -> None:
    assert [miss for row in rows for miss in row.misses] == []
    assert all(row.survived == row.tried > 0 for row in rows)


def test_killed_at_exact_file_operations_and_power_lost(tmp_path: Path) -> None:
    rows = list(at_file_operations(Scale(0.02), tmp_path))
    assert_survived(rows)
    found = {row.fault: row.tried for row in rows}
    assert sum(tried for fault, tried in found.items() if fault.startswith("killed")) >= 10
    assert len(found) >= 8
    assert found["power lost, nothing unsynced on the disk"] >= 4
    assert found["power lost, any part of the unsynced on the disk"] >= 4


def test_processes_killed_at_random_moments(tmp_path: Path) -> None:
    rows = list(processes.run(Scale(0.033), tmp_path / "processes"))
    assert_survived(rows)
    tried = {row.fault: row.tried for row in rows}
    assert tried == {"every process killed at a random moment while it writes": 1}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("played")
    return Played.record(first_ingest(folder / "scene"), folder / "play", [])


@pytest.mark.parametrize("kind", ["sync", "sync folder"])
def test_power_loss_is_noticed_where_syncs_are_left_out(played: Played, kind: str) -> None:
    """The campaign must be able to fail."""
    operations = tuple(one for one in played.operations if one.kind != kind)
    row = FaultRow("power lost")
    lazy = replace(played, operations=operations)
    lazy.lose_power(row, len(operations), None)
    assert len(row.misses) == 1
    sound = FaultRow("power lost")
    played.lose_power(sound, len(played.operations), None)
    assert sound.misses == []
