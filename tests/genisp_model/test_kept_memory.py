"""Freed memory is kept for the next tensors: the system clears pages once, not each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

#: Page faults of nine tensors of 64 MB, after three others.
FAULTS = """
import resource, torch
from genisp_model.device import keep_freed_memory
{first}
for _ in range(3):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(9):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is set")
def test_the_next_tensor_takes_the_memory_of_the_last() -> None:
    without, kept = faults(""), faults("keep_freed_memory()")
    assert kept * 20 < without
    assert faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072") * 2 > without
