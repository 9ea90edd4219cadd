"""The one seam to a store's files: atomic put, get, list, delete, and the writer's lock.

Keys are relative POSIX paths ("group/sidecars/ID.json"). A put is all or nothing: the bytes go to a
temporary name in the same folder, reach the disk (fsync), and are renamed over the key; then the
folder itself is synced. After a crash a key holds its old bytes or its new bytes, never a mixture,
and at worst a temporary file is left, which the next writer removes.

Puts, deletes and new folders are durable when the call returns: so what is written later can rely
on what was written before, whenever the power fails.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from pipeline.errors import REDO, DamagedStoreError, StoreError, StoreLockedError

TEMPORARY_MARK = ".tmp-"
LOCK_NAME = ".lock"
COMMITS_NAME = ".lock-commits"
OWNER_NAME = ".lock-owner.json"

#: Seconds a writer waits for commits that workers of a killed writer are still in the middle of.
LAST_COMMITS = 10.0

#: Seconds the holder of the lock may take to say who it is.
NAMING = 2.0

#: Bytes of what it says; more is not ours, and may be more than fits into memory.
_OWNER_BYTES = 1 << 12

#: What the system says where there are no locks: network file systems, mostly.
_NO_LOCKS = frozenset(
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "EINVAL", "EOPNOTSUPP", "ENOTSUP")
    if hasattr(errno, name)
)

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

    @contextmanager
    def reading(self, key: str) -> Iterator[FileIO]:
        """Open `key`, unbuffered.

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        DamagedStoreError
            If what is there is no file (a folder, a device, a link in a circle), or the disk
            cannot read it.
        """
        path = self.path(key)
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
        target = self.path(key)
        temporary = target.with_name(f".{target.name}{TEMPORARY_MARK}{os.getpid()}")
        with _writing(target):
            _make_folder(target.parent)
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

    def put_if_changed(self, key: str, data: bytes) -> bool:
        """Put `data` unless `key` already holds exactly that; tell whether it was written."""
        with suppress(DamagedStoreError):
            if self.get_or_none(key) == data:
                return False
        self.put(key, data)
        return True

    def make_folder(self, key: str) -> None:
        """Make a folder durably, with those above it; nothing happens if it is there."""
        with _writing(self.path(key)):
            _make_folder(self.path(key))

    def delete(self, key: str) -> None:
        """Remove `key` durably; nothing happens if it is not there."""
        path = self.path(key)
        with _writing(path), suppress(FileNotFoundError, NotADirectoryError):
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                os.unlink(path)
            _sync_folder(path.parent)

    def remove_empty_folder(self, key: str) -> None:
        """Remove a folder if it is empty."""
        with suppress(OSError):
            os.rmdir(self.path(key))
            _sync_folder(self.path(key).parent)

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
        """Tidy up after writers that were killed; only the holder of the lock may call this.

        Temporary files go. What was renamed or deleted, but not synced any more, becomes durable:
        the next writer takes it for done, so it has to be.
        """
        with _writing(self.root):
            for folder, _, names in os.walk(self.root):
                for name in names:
                    if TEMPORARY_MARK in name:
                        os.unlink(os.path.join(folder, name))
                _sync_folder(Path(folder))
            _sync_folder(self.root.parent)

    @contextmanager
    def lock(self) -> Iterator[str]:
        """Hold the store's writer lock; yields the lease that workers commit under.

        The operating system frees the lock of a dead process, so there is nothing to clean up.
        Workers may outlive their writer for a moment, or for long if they are stopped: the new
        lease ends theirs, and this waits for commits they are in the middle of.

        Raises
        ------
        StoreLockedError
            If another process holds it; names host, pid and since when.
        """
        held = self._take_lock()
        try:
            lease = secrets.token_hex(8)
            owner = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": _now(),
                "lease": lease,
            }
            self.put(OWNER_NAME, json.dumps(owner).encode())
            self._outwait_commits()
            yield lease
        finally:
            with suppress(StoreError):
                self.delete(OWNER_NAME)
            os.close(held)

    @contextmanager
    def commit(self, lease: str) -> Iterator[None]:
        """Write a sample in a worker: no other writer takes the store over meanwhile.

        Raises
        ------
        StoreLockedError
            If another writer has taken it over already, or ours has ended.
        """
        with _writing(self.root):
            held = _flock(self.path(COMMITS_NAME), exclusive=False, seconds=LAST_COMMITS)
        try:
            if held is None or self._owner().get("lease") != lease:
                raise StoreLockedError(
                    "the ingest this worker belonged to has ended",
                    path=str(self.root),
                    hint="run the same command again: it continues",
                )
            yield
        finally:
            if held is not None:
                os.close(held)

    def _take_lock(self) -> int:
        """Lock the store for this process, or say who holds it; the lock's descriptor.

        A holder names itself a moment after it has the lock. Until then nobody is named, or the one
        before, who is dead.
        """
        until = time.monotonic() + NAMING
        while True:
            with _writing(self.root):
                _make_folder(self.root)
                held = _flock(self.path(LOCK_NAME), exclusive=True)
            if held is not None:
                return held
            owner = self._owner()
            if _may_live(owner) or time.monotonic() >= until:
                raise self._locked_error(owner)
            time.sleep(0.02)

    def _outwait_commits(self) -> None:
        with _writing(self.root):
            held = _flock(self.path(COMMITS_NAME), exclusive=True, seconds=LAST_COMMITS)
        if held is None:
            raise StoreLockedError(
                "a worker of an ingest that was killed is still writing this store",
                path=str(self.root),
                hint=f"end that process (fuser {self.path(COMMITS_NAME)} names it), then run the "
                "same command again",
            )
        os.close(held)

    def _owner(self) -> dict[str, object]:
        try:
            with self.reading(OWNER_NAME) as file:
                owner = json.loads(file.read(_OWNER_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _locked_error(self, owner: dict[str, object]) -> StoreLockedError:
        who = "another process"
        if {"pid", "host", "since"} <= owner.keys():
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        return StoreLockedError(
            f"another ingest is writing this store ({who})",
            path=str(self.root),
            hint="wait for it, or stop that process and run the same command again",
        )


def _may_live(owner: dict[str, object]) -> bool:
    """Whether an owner is named who may be alive; processes of other hosts may."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe in a file's place must not hang the reader."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(path: Path, error: OSError) -> DamagedStoreError:
    what, first = f"cannot be read: {error.strerror}", "check the disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        first = f"make it readable (chmod u+r {path})"
    elif error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):
        what, first = f"is not a file: {error.strerror}", f"move {path} elsewhere"
    return DamagedStoreError(what, path=str(path), hint=f"{first}; then {REDO}")


def _remove_folder(folder: Path) -> None:
    """Make room for a file where a folder is; one that holds something is not ours to delete."""
    try:
        os.rmdir(folder)
    except OSError as error:
        raise StoreError(
            "a folder is in the place of a file",
            path=str(folder),
            hint="move it elsewhere, then run the same command: it continues",
        ) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new one is synced into its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _sync_folder(folder.parent)


def _write(path: Path, data: bytes | memoryview) -> None:
    """Write a file of our own and bring its bytes to the disk; no name is durable yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
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


def _flock(path: Path, *, exclusive: bool, seconds: float = 0.0) -> int | None:
    """Lock a file; closing the descriptor, or the process' end, frees it.

    None if others hold it for longer than `seconds`.
    """
    import fcntl  # here, because reading a store must not need what Windows lacks

    how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(descriptor)
                    return None
                time.sleep(0.02)
            else:
                return descriptor
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError) and error.errno in _NO_LOCKS:
            raise StoreError(
                f"its file system cannot lock files: {error.strerror}",
                path=str(path.parent),
                hint="keep the store on a local disk, or mount this one with locks",
            ) from error
        raise


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into a `StoreError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            path=str(target),
            hint="free space or fix permissions, then run the same command: it continues",
        ) from error
