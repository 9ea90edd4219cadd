"""A store kept in memory: the worked example of docs/how-to/store-backends.md."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.errors import StoreLockedError
from pipeline.store.files import StoreFiles


@dataclass
class MemoryFiles(StoreFiles):
    """All files of one store in a dict; one process, and gone with it."""

    held: dict[str, bytes] = field(default_factory=dict)
    lease: str = ""

    def location(self, key: str = "") -> str:
        return f"memory://{key}"

    def exists(self) -> bool:
        return bool(self.held)

    def require_usable(self) -> None:
        pass

    def free_bytes(self) -> int:
        return sys.maxsize

    def get(self, key: str) -> bytes:
        if key not in self.held:
            raise FileNotFoundError(key)
        return self.held[key]

    def read_into(self, key: str, buffer: memoryview) -> int:
        data = self.get(key)[: len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def size(self, key: str) -> int | None:
        return len(self.held[key]) if key in self.held else None

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.held[key] = bytes(data)

    def delete(self, key: str) -> None:
        self.held.pop(key, None)

    def make_folder(self, key: str) -> None:
        pass

    def remove_empty_folder(self, key: str) -> None:
        pass

    def names(self, key: str = "") -> list[str]:
        start = f"{key}/" if key else ""
        below = (held[len(start) :] for held in self.held if held.startswith(start))
        return sorted({name.split("/")[0] for name in below})

    def walk(self) -> Iterator[str]:
        yield from sorted(self.held)

    def is_unfinished(self, key: str) -> bool:
        return False

    def recover(self) -> None:
        pass

    @contextmanager
    def lock(self) -> Iterator[str]:
        if self.lease:
            raise StoreLockedError("another ingest is writing this store", path=self.location())
        self.lease = secrets.token_hex(8)
        try:
            yield self.lease
        finally:
            self.lease = ""

    @contextmanager
    def commit(self, lease: str) -> Iterator[None]:
        if not self.lease or lease != self.lease:
            raise StoreLockedError("the ingest this worker belonged to has ended")
        yield
