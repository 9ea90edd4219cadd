"""Ctrl-C in the middle of an ingest; SIGKILL and loss of power are in tests/torture/crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from tests.kit.recorder import Recorder
from tests.kit.running_ingest import Running
from tests.kit.scenes import many_samples


def test_an_interrupt_leaves_a_store_the_same_command_continues(tmp_path: Path) -> None:
    scene = many_samples(tmp_path / "many")
    store = tmp_path / "interrupted.zarr"
    running = Running.start(scene, store)
    assert running.wait_until(lambda: running.committed() >= 2)
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.finish() == 130
    options = VerifyOptions(strict=True)
    assert run_verify(LocalFiles(store), Recorder(), options).exit_code == 0
    assert 2 <= running.committed() < len(scene.sidecars)
    assert scene.mend(store) == ""
