"""Files and folders on a local disk, changed durably: the only place here that changes any.

A file is replaced as a whole: the bytes go to a temporary name in the same folder, reach the disk
(fsync), and are renamed over the old ones; then the folder itself is synced. After a crash there
are the old bytes or the new ones, never a mixture, and at worst a temporary file is left.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from pipeline.errors import REDO, DamagedStoreError, StoreError

#: What a file is called while it is written: its name between these, then the process' id.
_TEMPORARY = re.compile(r"\.(.+)\.tmp-[0-9]+")

#: What the system says of one file that cannot be read, as opposed to the machine being at its end.
_DAMAGE = {
    errno.EIO,
    errno.EBADMSG,
    getattr(errno, "EUCLEAN", errno.EIO),
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENXIO,
    errno.ENODEV,
    errno.EINVAL,
}


@contextmanager
def reading(path: Path) -> Iterator[FileIO]:
    """Open a file, unbuffered.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    DamagedStoreError
        If what is there is no file (a folder, a device, a link in a circle), or the disk cannot
        read it.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.ENXIO, "it is not a file")
            yield file
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        raise _unreadable(path, error) from error


def replace_file(target: Path, data: bytes | memoryview) -> None:
    """Write a file durably and atomically, replacing what was there.

    Raises
    ------
    StoreError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    with writing(target):
        _make_folders(target.parent)
        try:
            _write(temporary, data)
            try:
                os.replace(temporary, target)
            except IsADirectoryError:
                _remove_folder(target)
                os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder durably, with those above it; nothing happens if it is there."""
    with writing(folder):
        _make_folders(folder)


def delete(path: Path) -> None:
    """Remove a file or an empty folder durably; nothing happens if it is not there."""
    with writing(path), suppress(FileNotFoundError, NotADirectoryError):
        if path.is_dir() and not path.is_symlink():
            _remove_folder(path)
        else:
            os.unlink(path)
        _sync_folder(path.parent)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        os.rmdir(folder)
        _sync_folder(folder.parent)


def target_of(name: str) -> str | None:
    """The file that a temporary one of this name would become; None if it is no such name."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


def recover(root: Path, is_unfinished: Callable[[str], bool]) -> None:
    """Tidy up below a folder after writers that were killed.

    Temporary files go. What was renamed or deleted, but not synced any more, becomes durable: the
    next writer takes it for done, so it has to be.

    Parameters
    ----------
    is_unfinished
        Whether a path below `root` (with POSIX slashes) is that of a temporary file of ours. Only
        these are deleted, and only if they are files.
    """
    with writing(root):
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                ours = is_unfinished(path.relative_to(root).as_posix())
                if ours and stat.S_ISREG(path.lstat().st_mode):
                    os.unlink(path)
            _sync_folder(Path(folder))
        _sync_folder(root.parent)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into a `StoreError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            path=str(target),
            mend="free space or fix permissions, then run the same command: it continues",
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe in a file's place must not hang the reader."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(path: Path, error: OSError) -> DamagedStoreError:
    what, first = f"cannot be read: {error.strerror}", "check the disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        first = f"make it readable (chmod u+r {path})"
    elif error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):
        what, first = f"is not a file: {error.strerror}", f"move {path} elsewhere"
    return DamagedStoreError(what, path=str(path), mend=f"{first}; then {REDO}")


def _remove_folder(folder: Path) -> None:
    """Make room for a file where a folder is; one that holds something is not ours to delete."""
    try:
        os.rmdir(folder)
    except OSError as error:
        raise StoreError(
            "a folder is in the place of a file",
            path=str(folder),
            mend="move it elsewhere, then run the same command: it continues",
        ) from error


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it; each new one is synced into its parent."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _sync_folder(folder.parent)


def _write(path: Path, data: bytes | memoryview) -> None:
    """Write a file of our own and bring its bytes to the disk; no name is durable yet."""
    binary = getattr(os, "O_BINARY", 0)  # Windows' C library changes line ends without it
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | binary, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make names durable: on POSIX a folder's entries are its data.

    A folder that may be entered but not read (mode 711) cannot be opened, so not synced either.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
