"""A checkpoint is whole, or it is refused."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import pytest
import torch

from genisp_model.checkpoint import Checkpoint, load_checkpoint, load_isp
from genisp_model.isp import GenISP
from pipeline.errors import TrainingError, UsageError
from schemas.training import TrainConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    checkpoint().save(path)
    return path.read_bytes()


def checkpoint() -> Checkpoint:
    config = TrainConfig(store="s.zarr", store_fingerprint="0", epochs=1, batch_size=1, lr=0.1)
    small = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
    return Checkpoint(
        config=config,
        step=3,
        epoch=1,
        isp=small,
        optimiser={"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}},
        loader={"seed": 0, "epoch": 1, "cursor": 1, "plan": "0" * 16},
        rng=torch.get_rng_state(),
        best=0.5,
        samples={"a": ("0" * 16, ""), "b": ("1" * 16, "2" * 16)},
        detector="3" * 64,
    )


def test_no_bit_and_no_byte_can_change_unseen(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    chance = random.Random(5)
    places = [chance.randrange(8 * len(whole)) for _ in range(300)]
    end = 8 * len(whole)
    places += range(end - 8 * 120, end, 5)  # the digest, and the record it stands in
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(TrainingError, match=r"last\.pt"):
            load_checkpoint(path)


def test_a_part_of_a_checkpoint_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for size in (0, 1, 4, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TrainingError, match=r"last\.pt"):
            load_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(TrainingError, match=r"last\.pt"):
        load_checkpoint(path)


def test_what_is_saved_is_loaded_and_torch_reads_it_too(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(whole)
    saved, loaded = checkpoint(), load_checkpoint(path)
    assert loaded.config == saved.config
    assert (loaded.step, loaded.epoch, loaded.best) == (3, 1, 0.5)
    assert (loaded.loader, loaded.samples) == (saved.loader, saved.samples)
    assert torch.equal(loaded.isp["weight"], saved.isp["weight"])
    assert torch.equal(torch.load(path, weights_only=True)["isp"]["bias"], torch.zeros(2))


def test_one_of_an_earlier_version_loads_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "best.pt"
    now = checkpoint()
    fields = {
        name: getattr(now, name) for name in ("step", "epoch", "optimiser", "loader", "rng", "best")
    }
    isp = GenISP().state_dict()
    config = now.config.model_dump_json()
    torch.save({"version": 1, "config": config, "isp": isp, **fields}, path)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(path).samples is None
        load_isp(path)
    assert "no digest" in caplog.text
    torch.save({"version": 2, "config": config, "isp": isp, **fields}, path)
    with pytest.raises(TrainingError, match="SHA-256 is missing"):
        load_checkpoint(path)


def test_a_folder_is_no_checkpoint_and_the_one_in_it_is_named(whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder"):
        load_checkpoint(tmp_path)
    inside = tmp_path / "checkpoints" / "best.pt"
    inside.parent.mkdir()
    inside.write_bytes(whole)
    with pytest.raises(UsageError) as raised:
        load_checkpoint(tmp_path)
    assert str(inside) in raised.value.mend


def test_a_pipe_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(UsageError, match="is a file"):
        load_checkpoint(tmp_path / "pipe.pt")
    with pytest.raises(UsageError, match="no regular file"):
        checkpoint().save(tmp_path / "pipe.pt")


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(whole)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device") as raised:
        checkpoint().save(path)
    assert "--resume" in raised.value.mend
    assert path.read_bytes() == whole
    assert [one.name for one in tmp_path.iterdir()] == ["last.pt"]
