"""The one seam to a store's files: atomic put, get, list, delete, and the writer's lock.

Keys are relative POSIX paths ("group/sidecars/ID.json"). A put is all or nothing: the bytes go to a
temporary name in the same folder, reach the disk (fsync), and are renamed over the key; then the
folder itself is synced. After a crash a key holds its old bytes or its new bytes, never a mixture,
and at worst a temporary file is left, which the next writer removes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StoreError, StoreLockedError

TEMPORARY_MARK = ".tmp-"
LOCK_NAME = ".lock"
OWNER_NAME = ".lock-owner.json"


class StoreFiles:
    """Files of one store on a local file system.

    Parameters
    ----------
    root
        The store's folder; it need not exist until the first put.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Where a key's bytes are. Reading in place (a chunk into a buffer) starts here."""
        return self.root / key

    def get(self, key: str) -> bytes:
        """All bytes of `key`; `FileNotFoundError` if it is not there."""
        return self.path(key).read_bytes()

    def get_or_none(self, key: str) -> bytes | None:
        """All bytes of `key`, or None if it is not there."""
        try:
            return self.get(key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write `data` durably and atomically, replacing what was there.

        Raises
        ------
        StoreError
            If the file system refuses: full, read-only, no permission. Nothing is left behind.
        """
        target = self.path(key)
        temporary = target.with_name(f".{target.name}{TEMPORARY_MARK}{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        except OSError as error:
            raise _write_error(target, error) from error

    def put_if_changed(self, key: str, data: bytes) -> bool:
        """Put `data` unless `key` already holds exactly that; tell whether it was written."""
        if self.get_or_none(key) == data:
            return False
        self.put(key, data)
        return True

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens if it is not there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.path(key).unlink()

    def remove_empty_folder(self, key: str) -> None:
        """Remove a folder if it is empty."""
        with suppress(OSError):
            self.path(key).rmdir()

    def names(self, key: str = "") -> list[str]:
        """Sorted names directly in a folder, temporary files left out; [] if it is not there."""
        try:
            with os.scandir(self.path(key)) as entries:
                return sorted(entry.name for entry in entries if TEMPORARY_MARK not in entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self) -> Iterator[str]:
        """Every file's key, in order, temporary files included."""
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def remove_temporaries(self) -> int:
        """Delete what interrupted puts left; only the holder of the lock may call this."""
        left = [key for key in self.walk() if TEMPORARY_MARK in key.rsplit("/", 1)[-1]]
        for key in left:
            self.delete(key)
        return len(left)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store's writer lock.

        The operating system frees the lock of a dead process, so there is nothing to clean up.

        Raises
        ------
        StoreLockedError
            If another process holds it; names host, pid and since when.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path(LOCK_NAME), timeout=0)
            lock.acquire()
        except Timeout:
            raise self._locked_error() from None
        except OSError as error:
            raise _write_error(self.root, error) from error
        try:
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
            self.put(OWNER_NAME, json.dumps(owner).encode())
            yield
        finally:
            self.delete(OWNER_NAME)
            lock.release()

    def _locked_error(self) -> StoreLockedError:
        try:
            owner = json.loads(self.get(OWNER_NAME))
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return StoreLockedError(
            f"another ingest is writing this store ({who})",
            path=str(self.root),
            hint="wait for it, or stop that process and run the same command again",
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: on POSIX the folder's entry is data of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(target: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write: {error.strerror or error}",
        path=str(target),
        hint="free space or fix permissions, then run the same command: it continues",
    )
