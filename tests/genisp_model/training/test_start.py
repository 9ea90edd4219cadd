"""What a run begins with, and what of it never moves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genisp_model.checkpoint import load_checkpoint, load_isp
from genisp_model.isp import ISP, GenISP
from genisp_model.training.run import train_config
from genisp_model.training.start import describe_frozen, freeze, initial_network, train_others
from genisp_model.training.trainer import Trainer
from pipeline.errors import TrainingError, UsageError
from schemas.exit_code import ExitCode
from schemas.training import TrainConfig
from tests.commands.invoke import train
from tests.kit.quick_training import quick_trainer

pytestmark = pytest.mark.usefixtures("small_copies")

PARTS = ("white_balance", "colour_correction", "shallow")


def moved(run: Trainer, start: dict[str, Tensor]) -> set[str]:
    """The parts of which any weight is another one."""
    now = run.isp.state_dict()
    return {name.partition(".")[0] for name in now if not torch.equal(now[name], start[name])}


def copied(isp: ISP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in isp.state_dict().items()}


@pytest.mark.parametrize(
    ("names", "trained"),
    [
        ((), set(PARTS)),
        (("ConvWB",), {"colour_correction", "shallow"}),
        (("white_balance", "colour_correction"), {"shallow"}),
        (("ShallowConvNet", "ConvCC"), {"white_balance"}),
    ],
)
def test_frozen_parts_are_what_they_were_to_the_bit_also_after_a_break(
    tiny_store: Path,
    tmp_path: Path,
    names: tuple[str, ...],
    trained: set[str],
) -> None:
    options: dict[str, Any] = {"freeze": names, "ema": 0.9, "clip_grad": 1.0}
    whole = quick_trainer(tiny_store, tmp_path / "whole", **options)
    start = copied(whole.isp)
    assert whole.fit()
    first = quick_trainer(tiny_store, tmp_path / "parts", stop_at=1, **options)
    first.fit()
    second = quick_trainer(tiny_store, tmp_path / "parts", **options)
    second.resume(second.folder.last)
    assert second.fit()
    assert first.losses + second.losses == whole.losses
    for run in (whole, second):
        assert moved(run, start) == trained
        assert run.average is not None
        for name, value in run.average.state_dict().items():
            assert torch.equal(value, start[name]) == (name.partition(".")[0] not in trained)


def test_a_part_of_a_part_can_be_frozen() -> None:
    isp = GenISP()
    assert freeze(isp, ["shallow.conv3", "ConvWB", "white_balance"]) == (
        "shallow.conv3",
        "white_balance",
    )
    frozen = {name for name, weight in isp.named_parameters() if not weight.requires_grad}
    assert frozen == {
        name
        for name, _ in isp.named_parameters()
        if name.startswith(("white_balance.", "shallow.conv3."))
    }
    total = sum(weight.numel() for weight in isp.parameters())
    assert total == 115_855
    of_frozen = 52_579 + 64 * 3 + 3
    said = describe_frozen(isp, ("shallow.conv3", "white_balance"))
    assert f"{total - of_frozen:,} of 115,855 weights" in said


@pytest.mark.parametrize("name", ["convwb", "", "shallow.norm1", "shallow.activation", "ConvXX"])
def test_a_name_that_is_no_part_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match="no such part") as raised:
        freeze(GenISP(), [name])
    for part in ("white_balance (ConvWB)", "colour_correction (ConvCC)", "shallow"):
        assert part in raised.value.mend


def test_all_of_it_frozen_is_refused() -> None:
    for names in (PARTS, ("ConvWB", "ConvCC", "ShallowConvNet")):
        with pytest.raises(UsageError, match="nothing to train"):
            freeze(GenISP(), names)


def test_statistics_of_a_frozen_norm_stay_too() -> None:
    class Normed(ISP):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, xyz: Tensor, scale: Tensor | None = None) -> Tensor:
            result: Tensor = self.second(self.first(xyz))
            return result

    isp = Normed()
    train_others(isp, freeze(isp, ["first"]))
    isp(torch.randn(4, 3, 5, 5))
    assert torch.equal(isp.first.running_mean, torch.zeros(3))  # type: ignore[arg-type]
    assert not torch.equal(isp.second.running_mean, torch.zeros(3))  # type: ignore[arg-type]


def test_frozen_parts_may_not_change_and_an_older_config_has_none(
    tiny_store: Path, tmp_path: Path
) -> None:
    quick_trainer(tiny_store, tmp_path, freeze=("ConvCC", "ConvWB"), stop_at=1).fit()
    # The same parts by other names.
    same = quick_trainer(tiny_store, tmp_path, freeze=("white_balance", "ConvCC"))
    same.resume(same.folder.last)
    other = quick_trainer(tiny_store, tmp_path, freeze=("ConvWB",))
    difference = "--freeze: colour_correction,white_balance against white_balance"
    with pytest.raises(TrainingError, match=difference):
        other.resume(other.folder.last)
    fields: dict[str, Any] = {"store": "s", "store_fingerprint": "f", "epochs": 1, "batch_size": 1}
    older = TrainConfig.model_validate(fields | {"lr": 1.0})
    assert (older.freeze, older.init_from) == ((), "")


def test_a_run_begins_with_the_network_of_another_and_a_new_optimiser(
    tiny_store: Path, tmp_path: Path
) -> None:
    first = quick_trainer(tiny_store, tmp_path / "first", ema=0.9, epochs=1)
    first.fit()
    assert first.average is not None
    theirs = first.average.state_dict()  # what everything takes of a checkpoint with an average
    options: dict[str, Any] = {"init_from": str(first.folder.last), "seed": 5, "ema": 0.5}
    run = quick_trainer(tiny_store, tmp_path / "second", **options)
    run.begin()
    assert run.average is not None
    for state in (run.isp.state_dict(), run.average.state_dict()):
        assert all(torch.equal(value, theirs[name]) for name, value in state.items())
    assert not run.optimiser.state
    assert run.fit()
    # It goes on without that file, as the same run.
    again = quick_trainer(tiny_store, tmp_path / "third", stop_at=1, **options)
    again.fit()
    first.folder.last.unlink()
    rest = quick_trainer(tiny_store, tmp_path / "third", **options)
    rest.resume(rest.folder.last)
    assert rest.fit()
    assert again.losses + rest.losses == run.losses


def test_another_recipe_is_refused_and_one_with_the_same_network_is_not(
    tiny_store: Path, tmp_path: Path
) -> None:
    run = quick_trainer(tiny_store, tmp_path, recipe="paper", lr=1e-5, limit_steps=1)
    run.fit()
    fields = {"store": str(tiny_store), "init_from": str(run.folder.last)}
    found = initial_network(train_config(fields | {"recipe": "report"}))
    assert found is not None
    assert found.sha256 == hashlib.sha256(run.folder.last.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="a network of --recipe paper") as raised:
        initial_network(train_config(fields | {"recipe": "default"}))
    assert str(run.folder.last) in str(raised.value)


def test_train_begins_with_a_checkpoint_and_records_it(tiny_store: Path, tmp_path: Path) -> None:
    quick = ("--detector", "sample_retinanet", "--detector-weights", "none", "--val-split", "")
    options = ("--store", tiny_store, "--limit-steps", 1, *quick)
    run = quick_trainer(tiny_store, tmp_path / "first", limit_steps=1)
    run.fit()
    source, folder = run.folder.last, tmp_path / "run"
    done = train(*options, "--init-from", source, "--freeze", "ConvWB", "--output-dir", folder)
    assert done.exit_code == 0, done.output
    assert "frozen: white_balance; trained: 63,276 of 115,855 weights" in done.stdout
    environment = json.loads((folder / "environment.json").read_text())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert environment["init_from"] == {"path": str(source), "sha256": digest}
    config = json.loads((folder / "config.json").read_text())
    assert (config["init_from"], config["freeze"]) == (str(source), ["white_balance"])
    begun, _ = load_isp(source)
    made = load_checkpoint(folder / "checkpoints" / "last.pt").isp
    for name, value in begun.state_dict().items():
        assert torch.equal(value, made[name]) == name.startswith("white_balance.")

    both = train("--resume", "--output-dir", folder, "--init-from", source)
    assert both.exit_code == ExitCode.WRONG_USAGE
    assert "--init-from begins a run" in both.stderr
    source.unlink()
    # In a file it may stand: that says what the run says.
    rest = train("--resume", "--config", folder / "config.toml", "--limit-steps", 2)
    assert rest.exit_code == 0, rest.output
    assert json.loads((folder / "environment.json").read_text())["init_from"]["sha256"] == digest


def test_a_file_that_is_no_checkpoint_is_refused_by_name_before_anything_is_written(
    tiny_store: Path, tmp_path: Path
) -> None:
    run = quick_trainer(tiny_store, tmp_path / "first", limit_steps=1)
    run.fit()
    whole = run.folder.last.read_bytes()
    (tmp_path / "damaged.pt").write_bytes(whole[:500] + b"!" + whole[501:])
    (tmp_path / "foreign.pt").write_bytes(b"weights")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    saved = load_checkpoint(run.folder.last)
    replace(saved, isp={"weight": torch.zeros(3)}).save(tmp_path / "architecture.pt")
    for name in ("damaged.pt", "foreign.pt", "other.pt", "architecture.pt", "missing.pt", "first"):
        folder = tmp_path / "run"
        result = train(
            *("--store", tiny_store, "--init-from", tmp_path / name, "--output-dir", folder),
            *("--detector", "sample_retinanet", "--detector-weights", "none"),
        )
        assert result.exit_code in (ExitCode.FAILED, ExitCode.WRONG_USAGE), result.output
        assert str(tmp_path / name) in result.stderr
        assert not folder.exists()
