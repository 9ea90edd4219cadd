"""How many processors this process may use: not how many the machine has.

A batch system gives a job some of them (its affinity); a container has a quota of their time
(cgroups: https://docs.kernel.org/admin-guide/cgroup-v2.html, "CPU", and cgroup-v1's
sched-bwc.html). Where the system knows neither (macOS, Windows), all count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_processors(root: Path = Path("/")) -> int:
    """How many processors can work for this process at once, at least 1.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    quota = min(_quotas(root), default=math.inf)
    allowed = _allowed()
    # Of a quota of 1.5 processors two workers have three quarters each, which is all of it.
    return max(1, math.ceil(quota) if quota < allowed else allowed)


def _allowed() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each control group above this process has, where limited."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _upwards(root / "sys/fs/cgroup", group):
                yield from _share(*_text(folder / "cpu.max").split()[:2])
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                for folder in _upwards(root / "sys/fs/cgroup" / mount, group):
                    quota = _text(folder / "cpu.cfs_quota_us").strip()
                    yield from _share(quota, _text(folder / "cpu.cfs_period_us").strip())


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """A group's folder and those above it; in a container, some or all but the mount are hidden."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _share(quota: str = "", period: str = "") -> Iterator[float]:
    """Quota by period; nothing where there is none (``max``, -1), or a file is not as expected."""
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
