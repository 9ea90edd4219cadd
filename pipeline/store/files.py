"""A store's files by their keys: read, put, list, delete; and the writer's lock.

Keys are relative POSIX paths ("group/sidecars/ID.json"). A put is all or nothing. Puts, deletes and
new folders are durable when the call returns: so what is written later can rely on what was written
before, whenever the power fails (`disk`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path

from pipeline.errors import DamagedStoreError
from pipeline.store import disk
from pipeline.store.disk import TEMPORARY_MARK
from pipeline.store.lock import FolderLock


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

    def reading(self, key: str) -> AbstractContextManager[FileIO]:
        """Open `key`, unbuffered.

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        DamagedStoreError
            If what is there is no file (a folder, a device, a link in a circle), or the disk
            cannot read it.
        """
        return disk.reading(self.path(key))

    def get(self, key: str) -> bytes:
        """All bytes of `key`; raises what `reading` raises."""
        with self.reading(key) as file:
            return file.readall()

    def get_or_none(self, key: str) -> bytes | None:
        """All bytes of `key`, or None if it is not there."""
        try:
            return self.get(key)
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write `data` durably and atomically, replacing what was there.

        Raises
        ------
        StoreError
            If the file system refuses: full, read-only, no permission. Nothing is left behind.
        """
        disk.replace_file(self.path(key), data)

    def put_if_changed(self, key: str, data: bytes) -> bool:
        """Put `data` unless `key` already holds exactly that; tell whether it was written."""
        with suppress(DamagedStoreError):
            if self.get_or_none(key) == data:
                return False
        self.put(key, data)
        return True

    def make_folder(self, key: str) -> None:
        """Make a folder durably, with those above it; nothing happens if it is there."""
        disk.make_folder(self.path(key))

    def delete(self, key: str) -> None:
        """Remove `key` durably; nothing happens if it is not there."""
        disk.delete(self.path(key))

    def remove_empty_folder(self, key: str) -> None:
        """Remove a folder if it is empty."""
        disk.remove_empty_folder(self.path(key))

    def names(self, key: str = "") -> list[str]:
        """Sorted names directly in a folder, temporary files left out; [] if it is not there."""
        try:
            with os.scandir(self.path(key)) as entries:
                return sorted(entry.name for entry in entries if TEMPORARY_MARK not in entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link to itself
                return []
            raise

    def walk(self) -> Iterator[str]:
        """Every file's key, in order, temporary files included."""
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def recover(self) -> None:
        """Tidy up after writers that were killed; only the holder of the lock may call this."""
        disk.recover(self.root)

    def lock(self) -> AbstractContextManager[str]:
        """Hold the store's writer lock; yields the lease that workers commit under.

        Raises
        ------
        StoreLockedError
            If another process holds it; names host, pid and since when.
        """
        return FolderLock(self.root).hold()

    def commit(self, lease: str) -> AbstractContextManager[None]:
        """Write a sample in a worker: no other writer takes the store over meanwhile.

        Raises
        ------
        StoreLockedError
            If another writer has taken it over already, or ours has ended.
        """
        return FolderLock(self.root).commit(lease)
