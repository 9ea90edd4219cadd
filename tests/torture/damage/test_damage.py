"""The short form of the damage campaign: every kind of fault, few of each."""

from __future__ import annotations

from pathlib import Path

from tests.torture.campaign import Scale, run_campaign
from tests.torture.damage import run as damage

#: Rows whose faults are noticed by construction: here a fault that is not is a miss.
ALL_CAUGHT = (
    "one bit flipped in",
    "any file ",
    "whole files in",
    "files of another store",
    "a whole sample removed",
    "manifest lines",
    "files that do not belong",
    "two to five files",
    "training leaves out",
    "sidecars edited",
    "forged throughout",
    "crafted sidecars",
    "crafted manifests",
    "crafted or edited files, mended",
)


def test_damage_is_caught_named_and_mended(tmp_path: Path) -> None:
    finished = run_campaign(
        "damage", damage.run, Scale(0.001), tmp_path / "damage", lambda _row: None
    )
    rows = {row.fault: row for row in finished.rows}
    assert [miss for row in rows.values() for miss in row.misses] == []
    assert all(row.tried == row.survived > 0 for row in rows.values())
    for start in ALL_CAUGHT:
        found = [row for fault, row in rows.items() if fault.startswith(start)]
        assert found, start
        assert all(row.caught == row.tried for row in found), start
    # Elsewhere some faults are harmless (another spelling of the same number), most are not.
    assert all(row.caught > row.tried // 2 for row in rows.values())
    flips = [row for fault, row in rows.items() if fault.startswith("one bit")]
    assert len(flips) == 5
    assert sum(row.tried for row in flips) >= 100
    assert sum(fault.startswith("mended by prep ingest") for fault in rows) == 11
    assert sum(fault.startswith("training") for fault in rows) == 4
    assert sum(fault.startswith("crafted") for fault in rows) == 5
