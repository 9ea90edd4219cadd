"""Looks at the installation: what is there, which versions, what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pipeline.raw.decoders.table import decoder_packages, reference
from pipeline.runtime.processors import usable_processors
from schemas.info import DoctorReport

_NEEDED = {
    "to read stores": (
        "click",
        "crc32c",
        "numcodecs",
        "numpy",
        "pydantic",
        "rich",
        "zarr",
    ),
    "to prepare (pip install '.[prep]')": (
        *decoder_packages(),
        "dask",
        "cryptography",
        "numba",
        "fsspec",
    ),
    "to train (pip install '.[train]')": ("torch", "torchvision"),
}


def diagnose(folder: Path) -> DoctorReport:
    """Versions, decoder, machine, what is missing for which job; disk is measured at `folder`."""
    versions = {"python": sys.version.split()[0]}
    problems = []
    for purpose, names in _NEEDED.items():
        missing = [name for name in names if find_spec(name) is None]
        for name in names:
            versions[name] = _version(name)
        if missing:
            problems.append(f"missing {purpose}: {', '.join(missing)}")
    return DoctorReport(
        versions=versions,
        libraw=_libraw(),
        cpu_count=usable_processors(),
        memory_bytes=_memory(),
        disk_free_bytes=shutil.disk_usage(folder).free,
        gpu=_gpu(),
        problems=tuple(problems),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _libraw() -> str:
    package = reference().package
    if package is None or find_spec(package) is None:
        return "missing"
    return reference().load().version()


def _memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _gpu() -> str:
    """NVIDIA's driver is asked, not torch: the pipeline never imports torch."""
    driver = Path("/proc/driver/nvidia/version")
    return driver.read_text().splitlines()[0] if driver.exists() else "none found"
