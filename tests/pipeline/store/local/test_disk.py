from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DamagedStoreError, StoreError
from pipeline.store.local.files import LocalFiles
from tests.kit.file_operations import Operation, watched

GROUP = "nikon-d750_48x32"


def test_what_the_system_writes_in_part_is_written_on(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linux writes 2 GiB at most in one call; a signal may cut any call short.
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[:3]))
    files.put("key", b"ten bytes!")
    assert files.get("key") == b"ten bytes!"


def test_a_failing_disk_leaves_the_old_bytes_and_no_temporary(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("key", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device") as raised:
        files.put("key", b"new")
    assert "free space" in raised.value.mend
    assert files.get("key") == b"old"
    assert list(files.walk()) == ["key"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_a_store_error(files: LocalFiles) -> None:
    files.put("key", b"old")
    files.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StoreError, match="cannot write"):
        files.put("other", b"new")


@pytest.fixture
def told(files: LocalFiles) -> Iterator[list[str]]:
    """Every file operation, in order: what it is, and where in the store."""
    operations: list[str] = []

    def watch(operation: Operation, do: Callable[..., Any]) -> Any:
        place = os.path.relpath(operation.key, files.root)
        operations.append(f"{operation.kind} {place}")
        return do()

    with watched(watch):
        yield operations


def test_bytes_reach_the_disk_before_the_name_does_and_new_folders_before_both(
    files: LocalFiles, told: list[str]
) -> None:
    put = ["open a/b/key", "write a/b/key", "sync a/b/key", "rename a/b/key", "sync folder a/b"]
    folders = ["make folder .", "sync folder ..", "make folder a", "sync folder ."]
    files.put("a/b/key", b"bytes")
    assert told == [*folders, "make folder a/b", "sync folder a", *put]
    told.clear()
    files.put("a/b/key", b"others")
    assert told == put


def test_deletes_and_new_folders_are_durable(files: LocalFiles, told: list[str]) -> None:
    files.make_folder("a")
    files.put("a/key", b"bytes")
    told.clear()
    files.delete("a/key")
    files.delete("a/key")
    files.remove_empty_folder("a")
    assert told == ["delete a/key", "sync folder a", "remove folder a", "sync folder ."]


def test_what_a_killed_writer_left_is_removed_or_made_durable(
    files: LocalFiles, told: list[str]
) -> None:
    """It may have renamed a sidecar without syncing the folder: now the sample counts as there."""
    files.put(f"{GROUP}/sidecars/key.json", b"a")
    files.path(f"{GROUP}/sidecars/.key.json.tmp-17").write_bytes(b"half")
    told.clear()
    files.recover()
    assert list(files.walk()) == [f"{GROUP}/sidecars/key.json"]
    synced = {f"sync folder {place}" for place in (".", "..", GROUP, f"{GROUP}/sidecars")}
    assert synced <= set(told)


#: Temporary files as `put` calls them, where it makes them.
OURS = (
    ".zarr.json.tmp-1",
    ".manifest.jsonl.tmp-22",
    "..lock-owner.json.tmp-333",
    f"{GROUP}/.zarr.json.tmp-4",
    f"{GROUP}/packed/.zarr.json.tmp-4",
    f"{GROUP}/resized/.c.12.0.0.0.tmp-5",
    f"{GROUP}/sidecars/.DSC_1.json.tmp-6",
)
#: What only resembles them: another name, or another place.
NOT_OURS = (
    ".work/thesis.tmp-final.txt",
    "notes.tmp-7",
    ".notes.txt.tmp-7",
    "zarr.json.tmp-7",
    ".zarr.json.tmp-",
    ".zarr.json.tmp-7a",
    ".zarr.json.tmp-7.bak",
    "..zarr.json.tmp-7.tmp-7",
    ".DSC_1.json.tmp-7",
    f".{GROUP}.tmp-7",
    "mine/.zarr.json.tmp-7",
    "mine/packed/.c.1.0.0.0.tmp-7",
    "mine/sidecars/.DSC_1.json.tmp-7",
    f"{GROUP}/.manifest.jsonl.tmp-7",
    f"{GROUP}/.c.1.0.0.0.tmp-7",
    f"{GROUP}/masks/.c.1.0.0.0.tmp-7",
    f"{GROUP}/packed/.c.01.0.0.0.tmp-7",
    f"{GROUP}/packed/.DSC_1.json.tmp-7",
    f"{GROUP}/packed/deep/.zarr.json.tmp-7",
    f"{GROUP}/sidecars/.zarr.json.tmp-7",
    f"{GROUP}/sidecars/.my notes.json.tmp-7",
    f"{GROUP}/sidecars/x.tmp-1.json",
)


def test_only_what_is_ours_by_full_name_and_place_is_removed(files: LocalFiles) -> None:
    for key in (*OURS, *NOT_OURS):
        files.path(key).parent.mkdir(parents=True, exist_ok=True)
        files.path(key).write_bytes(b"anything")
    assert {key for key in files.walk() if files.is_unfinished(key)} == set(OURS)
    files.recover()
    assert set(files.walk()) == set(NOT_OURS)


def test_a_link_or_folder_is_never_taken_for_a_temporary_file(files: LocalFiles) -> None:
    files.path(".zarr.json.tmp-8").mkdir(parents=True)
    files.path(".zarr.json.tmp-8/mine").write_bytes(b"mine")
    files.path(".zarr.json.tmp-9").symlink_to("elsewhere")
    files.recover()
    assert files.path(".zarr.json.tmp-8/mine").exists()
    assert files.path(".zarr.json.tmp-9").is_symlink()


def test_a_folder_that_may_be_entered_but_not_read_is_no_hindrance(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == files.root.parent and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    files.put("key", b"bytes")
    files.recover()
    assert files.get("key") == b"bytes"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "is not a file"),
        ("device", "is not a file"),
        ("pipe", "is not a file"),
        ("loop", "is not a file"),
        ("broken sector", "cannot be read: Input/output error"),
    ],
)
def test_what_is_no_file_or_cannot_be_read_is_damage(
    files: LocalFiles, kind: str, message: str
) -> None:
    """Neither endless memory nor waiting for a writer that never comes."""
    path = files.path("key")
    files.root.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        targets = {"device": "/dev/zero", "loop": "key", "broken sector": "/proc/self/mem"}
        path.symlink_to(targets[kind])
    for read in (files.get, files.get_or_none):
        with pytest.raises(DamagedStoreError, match=message) as caught:
            read("key")
        assert caught.value.path == str(path)
        assert "prep ingest" in caught.value.mend


def test_the_machine_at_its_end_is_no_damage(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    files.put("key", b"")
    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        files.get("key")


def test_an_empty_folder_makes_room_for_a_file_and_a_full_one_is_named(files: LocalFiles) -> None:
    for key in ("empty", "full"):
        files.path(key).mkdir(parents=True)
    files.path("full/mine").write_bytes(b"mine")
    files.put("empty", b"data")
    assert files.get("empty") == b"data"
    changes: tuple[Callable[[], None], ...] = (
        partial(files.put, "full", b"data"),
        partial(files.delete, "full"),
    )
    for change in changes:
        with pytest.raises(StoreError, match="a folder is in the place of a file") as caught:
            change()
        assert "move it elsewhere" in caught.value.mend
    assert sorted(files.walk()) == ["empty", "full/mine"]
