from __future__ import annotations

import pytest

from pipeline.store.local.files import LocalFiles


def test_a_put_is_read_back_and_replaces_what_was_there(files: LocalFiles) -> None:
    files.put("group/level/c.0", b"first")
    files.put("group/level/c.0", b"second")
    assert files.get("group/level/c.0") == b"second"
    assert list(files.walk()) == ["group/level/c.0"]


def test_put_if_changed_writes_only_changes(files: LocalFiles) -> None:
    assert files.put_if_changed("key", b"a")
    before = files.path("key").stat().st_ino
    assert not files.put_if_changed("key", b"a")
    assert files.path("key").stat().st_ino == before
    assert files.put_if_changed("key", b"b")


def test_temporaries_are_invisible(files: LocalFiles) -> None:
    files.put("a-b_48x32/zarr.json", b"a")
    files.path("a-b_48x32/.zarr.json.tmp-17").write_bytes(b"half")
    files.path("a-b_48x32/.mine.tmp-17").write_bytes(b"mine")
    assert files.names("a-b_48x32") == [".mine.tmp-17", "zarr.json"]


def test_a_file_below_a_file_is_missing(files: LocalFiles) -> None:
    files.put("key", b"")
    assert files.get_or_none("key/below") is None
    with pytest.raises(FileNotFoundError):
        files.get("key/below")
