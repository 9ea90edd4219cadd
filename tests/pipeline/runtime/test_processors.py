from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.runtime.processors import usable_processors


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight of the machine's 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"
SYSTEMS: dict[str, tuple[str, dict[str, str], int]] = {
    "no groups": ("", {}, 8),
    "no limit": ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, 8),
    "two": ("0::/\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2),
    "one and a half": ("0::/\n", {f"{V2}/cpu.max": "150000 100000\n"}, 2),
    "a tenth": ("0::/\n", {f"{V2}/cpu.max": "10000 100000\n"}, 1),
    "more than may run": ("0::/\n", {f"{V2}/cpu.max": "3200000 100000\n"}, 8),
    "a group above": (
        "0::/pod/container\n",
        {f"{V2}/pod/cpu.max": "300000 100000", f"{V2}/pod/container/cpu.max": "max 100000"},
        3,
    ),
    "hidden groups": ("0::/../outside\n", {f"{V2}/cpu.max": "400000 100000"}, 4),
    "version 1": (
        "4:cpu,cpuacct:/docker/1\n0::/\n",
        {f"{V1}/cpu.cfs_quota_us": "250000\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1 without limit": (
        "4:cpu,cpuacct:/docker/1\n",
        {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        8,
    ),
    "cpuset is no cpu": (
        "4:cpuset:/a\n",
        {"sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us": "1", f"{V2}/cpu.max": "1 1"},
        8,
    ),
    "nonsense": ("0::/\nx\n::\n", {f"{V2}/cpu.max": "\n"}, 8),
    "no period": ("0::/\n", {f"{V2}/cpu.max": "200000 0"}, 8),
}


@pytest.mark.parametrize(("groups", "files", "expected"), SYSTEMS.values(), ids=SYSTEMS)
def test_affinity_and_quota(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    assert usable_processors(system(tmp_path, groups, files)) == expected


def test_all_count_where_the_system_knows_no_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_processors(tmp_path) == 64
    limited = system(tmp_path, "0::/\n", {f"{V2}/cpu.max": "200000 100000"})
    assert usable_processors(limited) == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors(tmp_path / "nowhere") == 1
