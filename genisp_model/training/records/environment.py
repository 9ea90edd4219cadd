"""Where a run runs: machine, versions, and the commit of the source, as far as they can be told."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

#: Distributions that numbers can depend on.
_PACKAGES = ("torch", "torchvision", "numpy", "zarr", "numcodecs", "numba", "genisp")

#: The folder that a checkout has its ``.git`` in.
_SOURCE = Path(__file__).resolve().parents[3]

_PATIENCE_S = 10


def environment(device: torch.device) -> dict[str, Any]:
    """What a run's ``environment.json`` says of the machine; what cannot be told is left out.

    Parameters
    ----------
    device
        Trained on. GPUs are described only if it is one, since asking takes memory on each.
    """
    found = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(Path("/proc/cpuinfo")) or platform.processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "device": str(device),
        **(_cuda() if device.type == "cuda" else {}),
        **source_state(_SOURCE),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def source_state(root: Path) -> dict[str, Any]:
    """``git_commit`` and ``git_dirty`` of a checkout; empty if `root` is none, or without git.

    A folder inside somebody else's checkout, such as ``site-packages``, is none.
    """
    if not (root / ".git").exists():
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"git_commit": commit.strip(), "git_dirty": bool(changes.strip())}


def _git(root: Path, *words: str) -> str | None:
    # Nothing is locked or run for it; a hook's GIT_DIR would mean another repository.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=plain,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model(cpuinfo: Path) -> str:
    for line in _text(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _cuda() -> dict[str, Any]:
    return {
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "driver": driver_version(_text(Path("/proc/driver/nvidia/version"))),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def driver_version(text: str) -> str:
    """``"535.104.05"`` of what NVIDIA's kernel module says of itself; "" if it says nothing."""
    words = text.partition("\n")[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
