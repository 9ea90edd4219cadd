from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StoreError, StoreLockedError
from pipeline.files import StoreFiles


@pytest.fixture
def files(tmp_path: Path) -> StoreFiles:
    return StoreFiles(tmp_path / "store")


def test_a_put_is_read_back_and_replaces_what_was_there(files: StoreFiles) -> None:
    files.put("group/level/c.0", b"first")
    files.put("group/level/c.0", b"second")
    assert files.get("group/level/c.0") == b"second"
    assert list(files.walk()) == ["group/level/c.0"]


def test_a_failing_disk_leaves_the_old_bytes_and_no_temporary(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("key", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device") as raised:
        files.put("key", b"new")
    assert "free space" in raised.value.hint
    assert files.get("key") == b"old"
    assert list(files.walk()) == ["key"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_a_store_error(files: StoreFiles) -> None:
    files.put("key", b"old")
    files.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StoreError, match="cannot write"):
        files.put("other", b"new")


def test_bytes_reach_the_disk_before_the_name_does(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def kind(descriptor: int) -> str:
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    def synced(descriptor: int) -> None:
        order.append(f"sync {kind(descriptor)}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.put("key", b"bytes")
    assert order == ["sync file", "rename", "sync folder"]


def test_put_if_changed_writes_only_changes(files: StoreFiles) -> None:
    assert files.put_if_changed("key", b"a")
    before = files.path("key").stat().st_ino
    assert not files.put_if_changed("key", b"a")
    assert files.path("key").stat().st_ino == before
    assert files.put_if_changed("key", b"b")


def test_temporaries_are_invisible_and_can_be_removed(files: StoreFiles) -> None:
    files.put("group/key", b"a")
    files.path("group/.key.tmp-17").write_bytes(b"half")
    assert files.names("group") == ["key"]
    assert files.remove_temporaries() == 1
    assert list(files.walk()) == ["group/key"]


HOLD = """
import sys, time
from pathlib import Path
from pipeline.files import StoreFiles
with StoreFiles(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_by_name_and_a_dead_one_frees_the_lock(
    files: StoreFiles,
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
    assert list(files.walk()) in ([], [".lock"])
