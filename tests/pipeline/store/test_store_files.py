"""Whatever keeps the promises of `StoreFiles` can keep a store: here, a dict in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NoStoreError, StoreLockedError, UsageError
from pipeline.ingest import IngestOptions, plan_ingest, run_ingest
from pipeline.store import open_store
from pipeline.store.files import StoreFiles
from pipeline.store.keys import PLACES_NAME
from pipeline.store.local.files import LocalFiles
from pipeline.store.open_files import open_files
from pipeline.store.summary import store_info
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from tests.kit.memory_files import MemoryFiles
from tests.kit.recorder import Recorder


@pytest.fixture
def memory(nod: Path) -> MemoryFiles:
    """A store in memory, ingested there."""
    files = MemoryFiles()
    assert run_ingest([str(nod)], files, Recipe(), IngestOptions(), Recorder()).exit_code == 0
    return files


def test_an_ingest_into_memory_leaves_the_bytes_of_one_into_a_folder(
    memory: MemoryFiles, store_path: Path
) -> None:
    folder = LocalFiles(store_path)
    kept = {key: folder.get(key) for key in folder.walk()}
    assert memory.held.pop(PLACES_NAME) != kept.pop(PLACES_NAME)  # where the sources were
    assert memory.held == kept


def test_a_store_in_memory_gives_the_numbers_of_one_in_a_folder(
    memory: MemoryFiles, store_path: Path
) -> None:
    held, local = open_store(memory), open_store(store_path)
    assert held.ids() == local.ids()
    for sample_id in local:
        for level in local.recipe.levels:
            ours, theirs = held.read(sample_id, level), local.read(sample_id, level)
            assert ours.sidecar == theirs.sidecar
            assert np.array_equal(ours.xyz, theirs.xyz)
            assert np.array_equal(ours.boxes, theirs.boxes)
    same = {"path": "", "warnings": ()}
    assert store_info(held).model_copy(update=same) == store_info(local).model_copy(update=same)


def test_a_store_in_memory_is_verified_and_its_samples_derived_again(
    memory: MemoryFiles, nod: Path
) -> None:
    recorder = Recorder()
    summary = run_verify(memory, recorder, VerifyOptions(sources=(str(nod),)))
    assert (summary.exit_code, summary.errors, summary.derived) == (0, 0, len(open_store(memory)))
    victim = next(key for key in memory.held if "/packed/c." in key)
    memory.held[victim] = memory.held[victim][:-1]
    assert run_verify(memory, recorder, VerifyOptions()).exit_code == 4
    assert "damaged-chunk" in recorder.codes


def test_a_damaged_sample_in_memory_is_made_again_and_orphans_go(
    memory: MemoryFiles, nod: Path
) -> None:
    before = dict(memory.held)
    victim = next(key for key in memory.held if "/packed/c." in key)
    group = victim.split("/")[0]
    memory.held[victim] = b"damaged"
    memory.held[f"{group}/packed/c.77.0.0.0"] = b"left by an ingest that was killed"
    summary = run_ingest([str(nod)], memory, Recipe(), IngestOptions(), Recorder())
    assert (summary.exit_code, summary.redone) == (0, 1)
    assert memory.held == before


def test_two_ingests_do_not_write_one_store_in_memory(memory: MemoryFiles, nod: Path) -> None:
    with memory.lock() as lease:
        with pytest.raises(StoreLockedError):
            run_ingest([str(nod)], memory, Recipe(), IngestOptions(), Recorder())
        with memory.commit(lease):
            pass
    with pytest.raises(StoreLockedError), memory.commit(lease):
        pass


def test_nothing_in_memory_is_no_store_and_a_dry_run_leaves_it_so(nod: Path) -> None:
    files = MemoryFiles()
    with pytest.raises(NoStoreError, match="there is no store here"):
        open_store(files)
    plan_ingest([str(nod)], files, Recipe(), IngestOptions(), Recorder())
    assert not files.held
    files.put("notes.txt", b"mine")
    with pytest.raises(NoStoreError, match="not one of our stores"):
        open_store(files)


def test_the_trainer_streams_a_store_in_memory(memory: MemoryFiles, store_path: Path) -> None:
    data = pytest.importorskip("genisp_model.data")
    held, local = data.StoreDataset(open_store(memory)), data.StoreDataset(store_path)
    for (ours, _), (theirs, _) in zip(held, local, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_store_files_promise(kind: str, tmp_path: Path) -> None:
    """The first checks of another implementation: small, and the same for all."""
    files: StoreFiles = MemoryFiles() if kind == "memory" else LocalFiles(tmp_path / "store")
    assert not files.exists()
    files.require_usable()
    assert files.get_or_none("a/b") is None
    assert files.size("a/b") is None
    assert files.names("a") == []
    files.delete("a/b")
    files.put("a/b", memoryview(b"123456"))
    files.put("a/b", b"12345")
    files.put("a/c/d", b"")
    assert files.exists()
    assert files.put_if_changed("a/b", b"12345") is False
    assert files.get("a/b") == b"12345"
    assert files.size("a/b") == 5
    assert files.names() == ["a"]
    assert files.names("a") == ["b", "c"]
    assert list(files.walk()) == ["a/b", "a/c/d"]
    for room in (0, 3, 5, 9):
        buffer = memoryview(bytearray(room))
        assert files.read_into("a/b", buffer) == min(room, 5)
        assert bytes(buffer[:5]) == b"12345"[:room]
    with pytest.raises(FileNotFoundError):
        files.read_into("a/x", memoryview(bytearray(3)))
    with files.lock() as lease, files.commit(lease):
        assert not any(map(files.is_unfinished, files.walk()))
    files.recover()
    files.delete("a/b")
    assert list(files.walk()) == ["a/c/d"]
    assert str(files.location("a/b")).endswith("a/b")
    assert files.free_bytes() > 0


def test_a_url_is_refused_wherever_a_store_is_named(nod: Path) -> None:
    for use in (
        open_store,
        open_files,
        lambda url: run_ingest([str(nod)], url, Recipe(), IngestOptions(), Recorder()),
    ):
        with pytest.raises(UsageError, match="local folders only"):
            use("s3://bucket/data.zarr")
