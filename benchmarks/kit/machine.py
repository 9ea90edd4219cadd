"""What every benchmark needs: facts of the machine, CPU seconds measured in turn, JSON.

CPU seconds are user plus system time of this process, all threads. They move less than wall time
when others use the machine, but not nothing: contenders take turns, order reversed every round, and
only ratios within one run are compared.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.raw.decoders.table import decoder_packages
from pipeline.runtime.processors import usable_processors

PACKAGES = ("genisp", "numpy", "numba", "numcodecs", "crc32c", *decoder_packages(), "zarr")


def machine_facts(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, memory, load at the start, and versions."""
    return {
        "cpu": _proc_value(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": usable_processors(),
        "memory_gb": round(_proc_kilobytes(Path("/proc/meminfo"), "MemTotal") / 1e6, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[1]}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def peak_memory() -> int:
    """Largest resident size of this process in bytes, of its program only.

    Not `ru_maxrss`: that survives exec, so a child reports at least its parent's size.
    """
    return _proc_kilobytes(Path("/proc/self/status"), "VmHWM") * 1000


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round; one round before that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(-1, rounds):
        for name in names if number % 2 else reversed(names):
            seconds = cpu_seconds(contenders[name])
            if number >= 0:
                taken[name].append(seconds)
    return taken


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and minimum in milliseconds."""
    return {
        "median_ms": round(1e3 * statistics.median(seconds), 2),
        "min_ms": round(1e3 * min(seconds), 2),
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write results."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _proc_value(file: Path, key: str) -> str:
    if not file.exists():
        return ""
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _proc_kilobytes(file: Path, key: str) -> int:
    value = _proc_value(file, key)  # "1234 kB": kibibytes, whatever it says
    return int(value.split()[0]) * 1024 // 1000 if value else 0
