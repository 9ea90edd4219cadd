"""The lock of a store in a local folder: one ingest writes it at a time, with all its workers.

Three files in the store's folder: one that the writer locks, one that workers lock while they
commit a sample, and one that says who the writer is. The operating system frees the locks of a
dead process, so there is nothing to clean up.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreError, StoreLockedError
from pipeline.store.local import disk

LOCK_NAME = ".lock"
COMMITS_NAME = ".lock-commits"
OWNER_NAME = ".lock-owner.json"
LOCK_FILES = frozenset({LOCK_NAME, COMMITS_NAME, OWNER_NAME})

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


class FolderLock:
    """The writer's lock of a store.

    Parameters
    ----------
    root
        The store's folder; made when the lock is taken, if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(self) -> Iterator[str]:
        """Hold the lock; yields the lease that workers commit under.

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
            disk.replace_file(self._path(OWNER_NAME), json.dumps(owner).encode())
            self._outwait_commits()
            yield lease
        finally:
            with suppress(StoreError):
                disk.delete(self._path(OWNER_NAME))
            os.close(held)

    @contextmanager
    def commit(self, lease: str) -> Iterator[None]:
        """Write a sample in a worker: no other writer takes the store over meanwhile.

        Raises
        ------
        StoreLockedError
            If another writer has taken it over already, or ours has ended.
        """
        with disk.writing(self._root):
            held = lock_file(self._path(COMMITS_NAME), exclusive=False, seconds=LAST_COMMITS)
        try:
            if held is None or self._owner().get("lease") != lease:
                raise StoreLockedError(
                    "the ingest this worker belonged to has ended",
                    path=str(self._root),
                    mend="run the same command again: it continues",
                )
            yield
        finally:
            if held is not None:
                with disk.writing(self._root):
                    os.close(held)

    def _path(self, name: str) -> Path:
        return self._root / name

    def _take_lock(self) -> int:
        """Lock the store for this process, or say who holds it; the lock's descriptor.

        A holder names itself a moment after it has the lock. Until then nobody is named, or the one
        before, who is dead.
        """
        until = time.monotonic() + NAMING
        while True:
            disk.make_folder(self._root)
            with disk.writing(self._root):
                held = lock_file(self._path(LOCK_NAME), exclusive=True)
            if held is not None:
                return held
            owner = self._owner()
            if _may_live(owner) or time.monotonic() >= until:
                raise self._locked_error(owner)
            time.sleep(0.02)

    def _outwait_commits(self) -> None:
        with disk.writing(self._root):
            held = lock_file(self._path(COMMITS_NAME), exclusive=True, seconds=LAST_COMMITS)
        if held is None:
            raise StoreLockedError(
                "a worker of an ingest that was killed is still writing this store",
                path=str(self._root),
                mend=f"end that process (fuser {self._path(COMMITS_NAME)} names it), then run the "
                "same command again",
            )
        os.close(held)

    def _owner(self) -> dict[str, object]:
        try:
            with disk.reading(self._path(OWNER_NAME)) as file:
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
            path=str(self._root),
            mend="wait for it, or stop that process and run the same command again",
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


def lock_file(path: Path, *, exclusive: bool, seconds: float = 0.0) -> int | None:
    """Lock a file; closing the descriptor, or the process' end, frees it.

    None if others hold it for longer than `seconds`.

    Raises
    ------
    StoreError
        If the system, or the file system, has no such locks.
    """
    try:
        import fcntl  # here, because reading a store must not need what Windows lacks
    except ImportError as error:
        raise StoreError(
            "this system has no POSIX file locks, without which no store is written",
            path=str(path.parent),
            mend="write it on Linux or macOS, on Windows under WSL; reading and training need none",
        ) from error
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
                mend="keep the store on a local disk, or mount this one with locks",
            ) from error
        raise
