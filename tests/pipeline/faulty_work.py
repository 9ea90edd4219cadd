"""Work for `test_scheduler` that must be importable by spawned workers."""

from __future__ import annotations

import ctypes
import os
import time


def misbehave(task: str) -> str:
    """Return the task in capitals, or die, crash or hang as it says."""
    if task == "exit":
        os._exit(3)
    if task == "crash":
        ctypes.string_at(0)
    if task == "hang":
        while True:
            time.sleep(1)
    if task == "raise":
        raise ValueError(task)
    return task.upper()
