"""What the checks ran on, and the project's own tests there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.processors import usable_processors
from scripts.gpu_check.checking import Bench, NotCheckedError, Result

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("torch", "torchvision", "triton", "numba", "numpy", "numcodecs", "crc32c", "zarr"),
    *("pydantic", "rawpy", "flashraw", "dask", "distributed", "fsspec", "faster-coco-eval"),
    *("tensorboard", "matplotlib", "pillow", "safetensors", "pytest"),
)
#: The tests that only a GPU can run; all others say the same on any machine.
PYTEST = ("-m", "pytest", "tests/genisp_model", "-q", "-rs", "-m", "cuda")
TEST_SECONDS = 45.0  # at least, however late it is


def facts(bench: Bench, result: Result) -> None:
    """Versions, and the device's name and memory."""
    result.found = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": usable_processors(),
        "torch threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    missing = [name for name, found in result.found["packages"].items() if found is None]
    if missing:
        result.unchecked.append("not installed: " + ", ".join(missing))
    if bench.on_cuda:
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        device = torch.cuda.get_device_properties(bench.device)
        result.found |= {
            "gpu": device.name,
            "gpu memory in GB": round(device.total_memory / 1e9, 1),
            "compute capability": f"{device.major}.{device.minor}",
            "nvidia-smi": _nvidia_smi(),
        }
    packages = result.found["packages"]
    result.summary = (
        f"{result.found.get('gpu', 'CPU')}, torch {packages['torch']}, torchvision "
        f"{packages['torchvision']}, Python {result.found['python']}, numba {packages['numba']}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _nvidia_smi() -> str:
    fields = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.draw"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no answer: {error}"
    return done.stdout.strip()


def own_tests(bench: Bench, result: Result) -> None:
    """The trainer's tests that have to do with the device, in a process of their own."""
    if not bench.on_cuda:
        raise NotCheckedError("there is no GPU for them")
    limit = max(TEST_SECONDS, bench.until - time.monotonic())
    command = [sys.executable, *PYTEST, "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=limit, check=False, **options
        )
    except subprocess.TimeoutExpired:
        raise NotCheckedError(f"they had not ended after {limit:.0f} s") from None
    lines = done.stdout.splitlines()
    result.found["tail"] = lines[-80:]
    result.summary = lines[-1] if lines else "no output"
    result.require(done.returncode == 0, f"pytest ended with {done.returncode}")
    result.require(
        done.returncode != 0 or " passed" in result.summary, "no test ran: all were skipped"
    )
    result.unchecked += [line for line in lines if re.match(r"SKIPPED \[", line)]
