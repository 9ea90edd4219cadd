"""SIGKILL of the whole process tree in the middle of an ingest, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files import StoreFiles
from pipeline.sample_set import write_sample_set
from pipeline.verify import VerifyOptions, run_verify
from schemas.finding import Severity
from tests.conftest import Ingest, Recorder, tree


def start(sources: Path, store: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "ingest", str(sources), "--store", str(store)]
    return subprocess.Popen(
        [*command, "--workers", str(workers)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(store: Path, pattern: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until `count` files match, or the process has ended."""
    while process.poll() is None and len(list(store.glob(pattern))) < count:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "nod"
    write_sample_set(folder, images=10, seed=1)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again_it_ends_as_if_never_killed(
    many: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, workers: int
) -> None:
    ingest(many, tmp_path / "uninterrupted.zarr")
    store = tmp_path / "killed.zarr"
    moments = [("zarr.json", 1), ("*/packed/*c.*", 1), ("*/sidecars/*", 2), ("*/resized/*c.*", 5)]
    interrupted = 0
    for pattern, count in moments:
        process = start(many, store, workers)
        wait_for(store, pattern, count, process)
        interrupted += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        committed = len(list(store.glob("*/sidecars/*.json")))
        found = Recorder()
        if (store / "manifest.jsonl").exists():
            run_verify(StoreFiles(store), found, VerifyOptions())
        # Metadata may be between two states; a committed sample is always whole.
        errors = {one.code for one in found.findings if one.severity is Severity.ERROR}
        assert errors <= {"damaged-metadata"}, found.findings
        assert committed <= 10
    assert interrupted >= 2, "the kills came too late to test anything"
    assert start(many, store, workers).wait() == 0
    assert tree(store) == tree(tmp_path / "uninterrupted.zarr")
    options = VerifyOptions(strict=True)
    assert run_verify(StoreFiles(store), recorder, options).exit_code == 0


def test_an_interrupt_leaves_a_store_the_same_command_continues(
    many: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(many, tmp_path / "uninterrupted.zarr")
    store = tmp_path / "interrupted.zarr"
    process = start(many, store, 2)
    wait_for(store, "*/sidecars/*.json", 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    found = Recorder()
    assert run_verify(StoreFiles(store), found, VerifyOptions(strict=True)).exit_code == 0
    committed = len(list(store.glob("*/sidecars/*.json")))
    assert 2 <= committed < 10
    assert start(many, store, 2).wait() == 0
    assert tree(store) == tree(tmp_path / "uninterrupted.zarr")
