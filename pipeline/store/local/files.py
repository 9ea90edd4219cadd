"""A store in a local folder: `disk` changes its files durably, `lock` has one writer at a time."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.safe_text import printable
from pipeline.store.files import StoreFiles, foreign
from pipeline.store.keys import is_key
from pipeline.store.local import disk
from pipeline.store.local.lock import LOCK_FILES, FolderLock


class LocalFiles(StoreFiles):
    """Files of one store on a local file system; `StoreFiles` says what the methods promise.

    Parameters
    ----------
    root
        The store's folder; it need not exist until the first put.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Where a key's bytes are."""
        return self.root / key

    def location(self, key: str = "") -> str:
        return str(self.root / key)

    def exists(self) -> bool:
        return self.root.exists()

    def require_usable(self) -> None:
        if self.root.is_symlink() and not self.root.exists():
            raise StoreError(
                f"it is a symbolic link that leads nowhere: {printable(os.readlink(self.root))}",
                path=str(self.root),
                mend="mount or make what it points to, or remove the link",
            )
        if self.root.exists() and not self.root.is_dir():
            raise foreign(str(self.root))

    def free_bytes(self) -> int:
        folder = self.root.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def get(self, key: str) -> bytes:
        with disk.reading(self.path(key)) as file:
            return file.readall()

    def read_into(self, key: str, buffer: memoryview) -> int:
        filled = 0
        with disk.reading(self.path(key)) as file:
            while count := file.readinto(buffer[filled:]):
                filled += count
        return filled

    def size(self, key: str) -> int | None:
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, data: bytes | memoryview) -> None:
        disk.replace_file(self.path(key), data)

    def delete(self, key: str) -> None:
        disk.delete(self.path(key))

    def make_folder(self, key: str) -> None:
        disk.make_folder(self.path(key))

    def remove_empty_folder(self, key: str) -> None:
        disk.remove_empty_folder(self.path(key))

    def names(self, key: str = "") -> list[str]:
        try:
            found = sorted(os.listdir(self.path(key)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link to itself
                return []
            raise
        return [name for name in found if not self.is_unfinished(f"{key}/{name}".lstrip("/"))]

    def walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                key = (Path(folder) / name).relative_to(self.root).as_posix()
                if key not in LOCK_FILES:
                    yield key

    def is_unfinished(self, key: str) -> bool:
        folder, slash, name = key.rpartition("/")
        target = disk.target_of(name)
        if target is None:
            return False
        return is_key(folder + slash + target) or (not folder and target in LOCK_FILES)

    def recover(self) -> None:
        disk.recover(self.root, self.is_unfinished)

    def lock(self) -> AbstractContextManager[str]:
        return FolderLock(self.root).hold()

    def commit(self, lease: str) -> AbstractContextManager[None]:
        return FolderLock(self.root).commit(lease)
