"""Every change a store makes to a disk, one by one: to be counted, told, or died at.

`pipeline.store.local.disk` and `lock` change files through their modules' ``os`` only, and nothing
else there changes any; `watched` puts itself in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from pipeline.store.local.disk import target_of

Kind = Literal[
    "make folder", "open", "write", "sync", "rename", "sync folder", "delete", "remove folder"
]


@dataclass(frozen=True)
class Operation:
    """One system call that changes what a disk holds, or must hold.

    Attributes
    ----------
    path
        Absolute; where a rename goes from `path` to `target`.
    data
        What is written.
    """

    kind: Kind
    path: str
    target: str = ""
    data: bytes = b""

    @property
    def key(self) -> str:
        """The store's key it is about, without the temporary file's marks."""
        path = Path(self.target or self.path)
        name = path.name
        name = target_of(name) or name
        return str(path.with_name(name))

    def __str__(self) -> str:
        return f"{self.kind} {self.target or self.path}"


#: Told of an operation; does it by calling what it is given. Half a write is ``do(data[:n])``.
Watcher = Callable[[Operation, Callable[..., Any]], Any]


class _WatchedOs:
    """Stands in for the module ``os`` in `pipeline.store.local.disk` and `lock`."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def mkdir(self, path: Path) -> None:
        if os.path.lexists(path):
            return os.mkdir(path)  # refuses, and changes nothing
        self._watcher(Operation("make folder", _absolute(path)), lambda: os.mkdir(path))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        place = _absolute(path)
        if flags & os.O_CREAT:
            opened = self._watcher(Operation("open", place), lambda: os.open(path, flags, mode))
        else:
            opened = os.open(path, flags, mode)
        self._paths[opened] = place
        return int(opened)

    def write(self, descriptor: int, data: memoryview) -> int:
        whole = bytes(data)
        operation = Operation("write", self._paths[descriptor], data=whole)
        return int(self._watcher(operation, lambda some=whole: os.write(descriptor, some)))

    def fsync(self, descriptor: int) -> None:
        path = self._paths[descriptor]
        kind: Kind = "sync folder" if os.path.isdir(path) else "sync"
        self._watcher(Operation(kind, path), lambda: os.fsync(descriptor))

    def replace(self, source: Path, target: Path) -> None:
        operation = Operation("rename", _absolute(source), _absolute(target))
        self._watcher(operation, lambda: os.replace(source, target))

    def unlink(self, path: Path) -> None:
        if not os.path.lexists(path):
            return os.unlink(path)
        self._watcher(Operation("delete", _absolute(path)), lambda: os.unlink(path))

    def rmdir(self, path: Path) -> None:
        if not os.path.isdir(path) or os.listdir(path):
            return os.rmdir(path)
        self._watcher(Operation("remove folder", _absolute(path)), lambda: os.rmdir(path))


def _absolute(path: Path | str) -> str:
    return os.path.abspath(path)


def without_waiting(operation: Operation, do: Callable[..., Any]) -> Any:
    """A watcher that does all but wait for the disk.

    What a killed process wrote is in the kernel's hands, synced or not; what survives loss of power
    is another question (`power_loss`).
    """
    return None if operation.kind in ("sync", "sync folder") else do()


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have every change of a store's files in this process pass through `watcher`."""
    watching = _WatchedOs(watcher)
    with (
        patch("pipeline.store.local.disk.os", watching),
        patch("pipeline.store.local.lock.os", watching),
    ):
        yield
