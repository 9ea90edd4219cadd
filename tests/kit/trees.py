"""What stands on a disk: every file below a folder with its bytes, or its stamps."""

from __future__ import annotations

from pathlib import Path

from pipeline.store.keys import PLACES_NAME


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes; but where sources were, for that is no content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != PLACES_NAME
    }


def chunks(root: Path) -> dict[str, bytes]:
    """The chunk files of a store with their bytes."""
    return {name: data for name, data in tree(root).items() if "/c." in name}


Stamps = dict[str, tuple[int, int, int]]


def stamps(store: Path) -> Stamps:
    """Inode, size and time of every file."""
    status = {path: path.lstat() for path in store.rglob("*")}
    return {
        path.relative_to(store).as_posix(): (one.st_ino, one.st_size, one.st_mtime_ns)
        for path, one in status.items()
        if path.is_file()
    }
