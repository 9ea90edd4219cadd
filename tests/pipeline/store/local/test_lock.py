from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import pipeline.store.local.lock
from pipeline.errors import StoreLockedError
from pipeline.store.local.files import LocalFiles

HOLD = """
import sys, time
from pathlib import Path
from pipeline.store.local.files import LocalFiles
with LocalFiles(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_by_name_and_a_dead_one_frees_the_lock(
    files: LocalFiles,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(files.root)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreLockedError, match=f"process {holder.pid} on ") as raised:
            files.lock().__enter__()
        assert raised.value.exit_code == 11
        holder.kill()
    with files.lock():
        pass
    assert files.names() == [".lock", ".lock-commits"]


def test_only_the_present_writer_lets_its_workers_commit(files: LocalFiles) -> None:
    """A worker may outlive its writer; what it still holds must not reach the store."""
    with files.lock() as old, files.commit(old):
        files.put("key", b"old")
    with pytest.raises(StoreLockedError, match="has ended"), files.commit(old):
        files.put("key", b"late")
    with files.lock() as new:
        with pytest.raises(StoreLockedError, match="has ended"), files.commit(old):
            files.put("key", b"late")
        with files.commit(new), files.commit(new):
            files.put("key", b"new")
    assert files.get("key") == b"new"


def test_a_new_writer_waits_for_commits_of_the_last_one(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files.lock() as lease:
        commit = files.commit(lease)
        commit.__enter__()
    ended = threading.Timer(0.3, commit.__exit__, (None, None, None))
    ended.start()
    started = time.monotonic()
    with files.lock():
        assert time.monotonic() - started > 0.2
    ended.join()
    monkeypatch.setattr(pipeline.store.local.lock, "LAST_COMMITS", 0.1)
    with files.lock() as lease:
        commit = files.commit(lease)
        commit.__enter__()
    with pytest.raises(StoreLockedError, match="still writing") as raised, files.lock():
        pass
    assert ".lock-commits" in raised.value.mend
    commit.__exit__(None, None, None)
    with files.lock():
        pass


@pytest.mark.parametrize(
    ("said", "nbytes"),
    [
        pytest.param(b"[" * 4000, 4000, id="nested deeper than Python counts"),
        pytest.param(b'{"host": "here", "pid": 1' + b"0" * 30 + b"}", 56, id="no such pid"),
        pytest.param(b"{}", 1 << 40, id="more than fits into memory"),
    ],
)
def test_the_file_that_names_the_lock_s_holder_may_hold_anything(
    files: LocalFiles, said: bytes, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.store.local.lock, "NAMING", 0.1)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    with files.lock() as lease:
        named = files.path(pipeline.store.local.lock.OWNER_NAME)
        named.write_bytes(said)
        os.truncate(named, nbytes)
        with pytest.raises(StoreLockedError, match="another process"), files.lock():
            pass
        with pytest.raises(StoreLockedError, match="has ended"), files.commit(lease):
            pass
    with files.lock() as lease, files.commit(lease):
        pass
