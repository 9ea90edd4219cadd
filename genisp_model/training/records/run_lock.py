"""One training writes a run folder at a time.

The operating system frees the lock of a dead process, so there is nothing to clean up.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genisp_model.files import writing
from pipeline.errors import RunLockedError, StoreError
from pipeline.store.local.lock import lock_file

_log = logging.getLogger(__name__)

LOCK_NAME = ".lock"

#: Bytes of what the holder says of itself; more is not ours.
_OWNER_BYTES = 1 << 12


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock. Where there are no locks, go on without one, with a warning.

    Raises
    ------
    RunLockedError
        If another process trains into this folder; names host, pid and since when.
    """
    held = _lock(folder / LOCK_NAME)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(path: Path) -> int | None:
    """The lock's descriptor; None where there are no locks."""
    try:
        with writing(path, mend="fix permissions, or name another --output-dir"):
            held = lock_file(path, exclusive=True)
    except (StoreError, ImportError):  # the file system has none, or the system
        _log.warning("%s: cannot be locked: let no second training write here", path.parent)
        return None
    if held is None:
        raise RunLockedError(
            f"another training writes this run folder ({_owner(path)})",
            path=str(path.parent),
            mend="wait for it, stop it, or name another --output-dir",
        )
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
    with suppress(OSError):  # a full disk: then nobody is named
        os.ftruncate(held, 0)
        os.write(held, json.dumps(about).encode())
    return held


def _owner(path: Path) -> str:
    try:
        with path.open("rb") as file:
            about = json.loads(file.read(_OWNER_BYTES))
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return "it does not say who"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
