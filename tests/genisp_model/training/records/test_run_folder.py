"""A run folder has one writer, holds one run, and says what a full disk means."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from genisp_model.training.records import run_lock
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.records.run_lock import LOCK_NAME
from pipeline.errors import RunLockedError, StoreError, TrainingError, UsageError
from schemas.exit_code import ExitCode
from schemas.training import TrainConfig

ROW = {"step": 1, "epoch": 1, "loss": 0.5}

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, b'{"pid": 4711, "host": "elsewhere", "since": "noon"}')
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_training_is_refused_by_name_until_the_first_is_dead(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_NAME)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = pytest.raises(RunLockedError, match="process 4711 on elsewhere")
        with refused as raised, folder.only_writer():
            pass
        assert raised.value.exit_code == ExitCode.LOCKED
        holder.kill()
    with folder.only_writer(), folder.only_writer():
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
        with (tmp_path / LOCK_NAME).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / LOCK_NAME).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_where_nothing_can_be_locked_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unlockable(*_: object, **__: object) -> None:
        raise StoreError("its file system cannot lock files")

    monkeypatch.setattr(run_lock, "lock_file", unlockable)
    with RunFolder(tmp_path).only_writer():
        assert "cannot be locked" in caplog.text


def test_what_a_run_without_checkpoint_left_is_moved_aside_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "pictures").mkdir()
    assert folder.begin() is None  # nobody has trained here
    folder.log_step(ROW)
    folder.close()
    written = {path.name for path in tmp_path.iterdir()} - {"mine.txt"}
    aside = RunFolder(tmp_path).begin()
    assert aside == tmp_path / "run.old-1"
    assert {path.name for path in aside.iterdir()} == written
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "run.old-1"}


def test_a_file_where_the_folder_should_be_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="there is a file"):
            RunFolder(path)


def test_a_full_disk_is_told_with_what_continues_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(TrainingError, match="No space left") as raised:
            folder.log_step(ROW)
        assert "--resume" not in raised.value.mend
    folder.last.parent.mkdir()
    folder.last.write_bytes(b"")
    folder.log_step(ROW)
    monkeypatch.setattr(folder._board, "add_scalar", full)
    with pytest.raises(TrainingError, match="No space left") as raised:
        folder.log_step(ROW | {"step": 2})
    assert "--resume" in raised.value.mend
    monkeypatch.setattr(folder._board, "close", full)
    folder.close()


CONFIG = TrainConfig(store="s", store_fingerprint="f", epochs=1, batch_size=1, lr=1.0)


def environments(folder: RunFolder) -> object:
    return json.loads((folder.path / "environment.json").read_text())


def test_a_resumed_run_keeps_what_was_said_of_earlier_machines(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.describe(CONFIG, {"device": "cuda:0"})
    folder.describe(CONFIG, {"device": "cpu"}, resumed_after=3)
    folder.describe(CONFIG, {"device": "mps"}, resumed_after=7)
    assert environments(folder) == {
        "device": "cuda:0",
        "resumed": [{"after_step": 3, "device": "cpu"}, {"after_step": 7, "device": "mps"}],
    }
    folder.describe(CONFIG, {"device": "cpu"})
    assert environments(folder) == {"device": "cpu"}, "a new run"


def test_options_that_somebody_wrote_are_kept_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "config.toml"
    own.write_text("epochs = 1  # a short one\n")
    folder = RunFolder(tmp_path)
    folder.describe(CONFIG, {"device": "cpu"})
    assert (tmp_path / "config.old-1.toml").read_text() == "epochs = 1  # a short one\n"
    assert "config.old-1.toml" in caplog.text
    longer = CONFIG.model_copy(update={"epochs": 2})
    folder.describe(longer, {"device": "cpu"}, resumed_after=3)
    assert tomllib.loads(own.read_text())["epochs"] == 2
    assert len(list(tmp_path.glob("config.*"))) == 3, "ours is replaced"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"resumed": 1}', b"\xff", b"["])
def test_a_damaged_environment_is_kept_aside_and_stops_nothing(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "environment.json").write_bytes(content)
    folder.describe(CONFIG, {"device": "cpu"}, resumed_after=3)
    assert environments(folder) == {"resumed": [{"after_step": 3, "device": "cpu"}]}
    assert (tmp_path / "environment.old-1.json").read_bytes() == content
    assert "cannot be read" in caplog.text


def test_a_missing_environment_stops_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.describe(CONFIG, {"device": "cpu"}, resumed_after=3)
    assert environments(folder) == {"resumed": [{"after_step": 3, "device": "cpu"}]}
