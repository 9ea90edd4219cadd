"""What a store needs of the place it is kept in: keys in, bytes out.

Everything else in this project sees a store's files through `StoreFiles` only, so a store can lie
wherever these methods can be written. What each one must promise, with an example, is in
docs/how-to/store-backends.md.
`LocalFiles` is the one there is; `open_files` is the one place that chooses.

Keys are relative POSIX paths (``"group/sidecars/ID.json"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from pipeline.errors import DamagedStoreError, NoStoreError


class StoreFiles(Protocol):
    """The files of one store.

    Small, and picklable if worker processes are used: it travels with every task.

    A put is all or nothing. Puts, deletes and new folders are durable when the call returns: so
    what is written later can rely on what was written before, whenever the power fails.
    """

    def location(self, key: str = "") -> str:
        """Where a file is, for messages; the store itself for ""."""
        ...

    def exists(self) -> bool:
        """Whether anything is at the store's place, ours or not."""
        ...

    def require_usable(self) -> None:
        """Refuse a place where no store is and none can be made.

        Raises
        ------
        NoStoreError
            If what is there cannot hold a store (`foreign`).
        StoreError
            If the place cannot be reached.
        """
        ...

    def free_bytes(self) -> int:
        """Bytes that can still be written; ``sys.maxsize`` if nobody knows of an end."""
        ...

    def get(self, key: str) -> bytes:
        """All bytes of `key`.

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        DamagedStoreError
            If what is there is no file, or cannot be read.
        """
        ...

    def read_into(self, key: str, buffer: memoryview) -> int:
        """Fill `buffer` with the first bytes of `key`; how many there were.

        Fewer than the buffer holds only if that is all of them. This is how chunks are read: no
        copy is made where the place allows it. Raises what `get` raises.
        """
        ...

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write `data` durably, whole or not at all, replacing what was there.

        Raises
        ------
        StoreError
            If it cannot be written. Nothing is left behind.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove `key` durably; nothing happens if it is not there."""
        ...

    def make_folder(self, key: str) -> None:
        """Make a folder durably, with those above it; nothing happens where there are none."""
        ...

    def remove_empty_folder(self, key: str) -> None:
        """Remove a folder if it is empty; nothing happens where there are none."""
        ...

    def names(self, key: str = "") -> list[str]:
        """Sorted names directly in a folder, of files and folders; [] if it is not there.

        What unfinished puts left is not among them.
        """
        ...

    def walk(self) -> Iterator[str]:
        """Every file's key, what unfinished puts left included, the lock's own files not."""
        ...

    def is_unfinished(self, key: str) -> bool:
        """Whether a key that `walk` gave is what an unfinished put of ours left.

        `recover` removes these and nothing else: so it must be certain, by full name and place.
        """
        ...

    def recover(self) -> None:
        """Tidy up after writers that were killed; only the holder of the lock may call this."""
        ...

    def lock(self) -> AbstractContextManager[str]:
        """Hold the store's writer lock; yields the lease that workers commit under.

        Raises
        ------
        StoreLockedError
            If another process holds it; names host, pid and since when.
        """
        ...

    def commit(self, lease: str) -> AbstractContextManager[None]:
        """Write a sample in a worker: no other writer takes the store over meanwhile.

        Raises
        ------
        StoreLockedError
            If another writer has taken it over already, or ours has ended.
        """
        ...

    # What follows is made of the above; a class that inherits from this one has it.

    def get_or_none(self, key: str) -> bytes | None:
        """All bytes of `key`, or None if it is not there."""
        try:
            return self.get(key)
        except FileNotFoundError:
            return None

    def put_if_changed(self, key: str, data: bytes) -> bool:
        """Put `data` unless `key` already holds exactly that; tell whether it was written."""
        with suppress(DamagedStoreError):
            if self.get_or_none(key) == data:
                return False
        self.put(key, data)
        return True


def foreign(location: str) -> NoStoreError:
    """The error for a place that holds something, but no store of ours."""
    return NoStoreError(
        "this is not one of our stores (no readable zarr.json or manifest.jsonl of ours)",
        path=location,
        mend="name the folder that prep ingest wrote (default: ./data.zarr)",
    )
