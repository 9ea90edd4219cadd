"""Work for `test_executor` that must be importable by spawned workers.

What happens only once is remembered in a file, whose path follows the task's name after a colon.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    if task == "shout":
        os.write(2, b"unknown file: data corrupted at 21837\n")
    name, _, token = task.partition(":")
    if name == "exit once" and _is_first(token):
        os._exit(3)
    if name == "stop once" and _is_first(token):
        os.kill(os.getpid(), signal.SIGSTOP)
    return task.upper()


def places_of_modules(_: str) -> list[str]:
    """Where the worker looks for modules."""
    return sys.path


@dataclass(frozen=True)
class DeadlyAnswer:
    """An answer that kills the worker which is asked for it, the first time."""

    task: str

    def __reduce__(self) -> tuple[Any, ...]:
        if _is_first(self.task):
            os._exit(3)
        return DeadlyAnswer, (self.task,)


def answer_deadly(token: str) -> DeadlyAnswer:
    """Finish the task, and die when the result is fetched."""
    return DeadlyAnswer(token)


def _is_first(token: str) -> bool:
    try:
        Path(token).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
