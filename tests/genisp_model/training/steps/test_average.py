"""The averaged weights are those of a plain loop in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from genisp_model.checkpoint import load_checkpoint, load_isp
from genisp_model.isp import ISP, GenISP, ISPOutput
from genisp_model.training import trainer as trainer_module
from genisp_model.training import validation
from genisp_model.training.run import train_config
from genisp_model.training.steps.average import WeightAverage, decay_at
from pipeline.errors import TrainingError, UsageError
from schemas.training import TrainConfig
from tests.genisp_model.training.test_trainer import Reads
from tests.kit.quick_training import quick_trainer

pytestmark = pytest.mark.usefixtures("small_copies")


def test_the_decay_rises_to_the_one_that_was_asked_for() -> None:
    rates = [decay_at(0.9, step) for step in range(1, 200)]
    assert rates[0] == 2 / 11
    assert rates == sorted(rates)
    assert rates[:80] == [(1 + step) / (10 + step) for step in range(1, 81)]
    assert set(rates[80:]) == {0.9}


def some_steps(isp: ISP, count: int) -> Iterator[int]:
    """Weights that move, as an optimiser would move them."""
    generator = torch.Generator().manual_seed(3)
    for step in range(1, count + 1):
        with torch.no_grad():
            for parameter in isp.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        yield step


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_that_of_a_plain_loop_in_double_precision(decay: float) -> None:
    isp = GenISP()
    average = WeightAverage(isp, decay)
    expected = {name: value.double() for name, value in isp.state_dict().items()}
    for step in some_steps(isp, 60):
        average.update(isp, step)
        kept = min(decay, (step + 1) / (step + 10))
        for name, value in isp.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value.double()
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=2e-6)
        assert (value != isp.state_dict()[name]).any()
    # What is not averaged is what it was: the network has no gradients to make.
    assert not any(one.requires_grad for one in average.isp.parameters())


def test_at_its_full_decay_it_is_torchs_average() -> None:
    """Which begins with the first weights it is given, so its count is put ahead."""
    isp = GenISP()
    average = WeightAverage(isp, 0.5)
    torchs: Any = get_ema_multi_avg_fn
    theirs = AveragedModel(isp, multi_avg_fn=torchs(0.5))
    theirs.n_averaged.fill_(1)
    for step in some_steps(isp, 20):
        average.update(isp, step + 100)
        theirs.update_parameters(isp)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(average.state_dict()[name], value)


class Counting(ISP):
    """A network with a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward_with_parameters(self, xyz: Tensor, scale: Tensor | None = None) -> ISPOutput:
        return ISPOutput(self.norm(xyz))


def test_buffers_are_the_networks_own() -> None:
    isp = Counting()
    average = WeightAverage(isp, 0.9)
    isp(torch.randn(4, 3, 5, 5))
    average.update(isp, 1)
    for ours, theirs in zip(average.isp.buffers(), isp.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert int(average.isp.norm.num_batches_tracked) == 1  # type: ignore[union-attr,arg-type]


def test_nothing_of_it_waits_for_the_device() -> None:
    isp = GenISP()
    average = WeightAverage(isp, 0.9)
    with Reads() as reads:
        average.update(isp, 1)
    assert reads.count == 0


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_run_averages_each_step_also_after_a_break_and_trains_as_without(
    tiny_store: Path, tmp_path: Path, stop_at: int
) -> None:
    options: dict[str, Any] = {"ema": 0.8, "val_split": ""}
    plain = quick_trainer(tiny_store, tmp_path / "plain", val_split="")
    expected: dict[str, Tensor] = {}

    def look() -> bool:
        """After each step of a run without an average: what the average would be."""
        kept = min(0.8, (plain.step + 1) / (plain.step + 10))
        for name, value in plain.isp.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value.double()
        return False

    expected |= {name: value.double() for name, value in plain.isp.state_dict().items()}
    plain.stop = look
    plain.fit()
    first = quick_trainer(tiny_store, tmp_path / "parts", stop_at=stop_at, **options)
    assert not first.fit()
    second = quick_trainer(tiny_store, tmp_path / "parts", **options)
    second.resume(second.folder.last)
    assert second.fit()
    assert first.losses + second.losses == plain.losses
    assert same(second.isp.state_dict(), plain.isp.state_dict())
    assert second.average is not None
    for name, value in second.average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6)
    saved = load_checkpoint(second.folder.last)
    assert saved.average is not None
    assert same(saved.isp, second.isp.state_dict())
    assert same(saved.average, second.average.state_dict())
    loaded, _ = load_isp(second.folder.last)
    assert same(loaded.state_dict(), saved.average)


def test_validation_sees_the_average_and_best_pt_gives_it(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick_trainer(tiny_store, tmp_path, ema=0.9, epochs=1)
    seen: list[Tensor] = []
    validate = validation.validate

    def watched(render: Any, *rest: Any, **named: Any) -> Any:
        (batch,) = islice(run.loader, 1)
        seen.append(render(batch).detach())
        assert run.average is not None
        seen.append(run.average.isp(batch.images, batch.exposure).detach())
        seen.append(run.isp(batch.images, batch.exposure).detach())
        run.loader.set_epoch(1)
        return validate(render, *rest, **named)

    monkeypatch.setattr(trainer_module, "validate", watched)
    assert run.fit()
    rendered, averaged, trained = seen
    assert torch.equal(rendered, averaged)
    assert not torch.equal(rendered, trained)
    loaded, _ = load_isp(run.folder.best)
    assert run.average is not None
    assert same(loaded.state_dict(), run.average.state_dict())


def test_a_run_does_not_go_on_with_another_average_or_without(
    tiny_store: Path, tmp_path: Path
) -> None:
    quick_trainer(tiny_store, tmp_path, ema=0.9, stop_at=1).fit()
    for ema in (0.0, 0.99):
        other = quick_trainer(tiny_store, tmp_path, ema=ema)
        with pytest.raises(TrainingError, match=f"--ema: 0.9 against {ema}"):
            other.resume(other.folder.last)


def test_an_older_config_has_none_and_a_decay_of_one_is_refused(tiny_store: Path) -> None:
    fields: dict[str, Any] = {"store": "s", "store_fingerprint": "f", "epochs": 1, "batch_size": 1}
    assert TrainConfig.model_validate(fields | {"lr": 1.0}).ema == 0.0
    for decay in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="--ema"):
            train_config({"store": str(tiny_store), "recipe": "default", "ema": decay})
