"""The short form of the resources campaign: its disks. The limits take longer: make torture."""

from __future__ import annotations

from pathlib import Path

from tests.torture import full_disks
from tests.torture.campaign import Scale
from tests.torture.crash_scenes import first_ingest, update


def test_an_ingest_outlives_disks_that_are_full_fail_or_refuse(tmp_path: Path) -> None:
    scenes = first_ingest(tmp_path / "first"), update(tmp_path / "update")
    rows = list(full_disks.run(Scale(share=0.02), tmp_path / "disks", scenes))
    assert [miss for row in rows for miss in row.misses] == []
    tried = {row.fault: row.tried for row in rows}
    assert all(count or "skipped" in fault for fault, count in tried.items()), tried
    assert sum(row.caught for row in rows) >= 10
