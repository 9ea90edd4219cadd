from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genisp_model.checkpoint import Checkpoint, load_checkpoint
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.steps import precision as module
from genisp_model.training.steps.precision import FIRST_SCALE, MOST_OVERFLOWS, LossScale, Precision
from genisp_model.training.steps.step import BatchNumbers, StepResult, read_step
from genisp_model.training.trainer import Trainer
from pipeline.errors import TrainingError, UsageError
from schemas.choices import Amp
from schemas.training import TrainConfig

CPU = torch.device("cpu")
AMPS: tuple[Amp | None, ...] = (None, "fp16")
#: In float32, too, the first two steps overflow.
TOO_LARGE = 2.0**129
Train = Callable[..., Trainer]


@pytest.fixture
def detector() -> FrozenDetector:
    torch.manual_seed(7)
    return load_frozen_detector("sample_retinanet", weights="none")


@pytest.fixture
def train(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> Train:
    """Makes trainers of four scaled steps; each says its lines to a list, if one is given.

    They compute in float32: a processor takes some 30 times as long in float16.
    """
    monkeypatch.setattr(Precision, "autocast", lambda _: nullcontext())

    def made(
        name: str,
        said: list[str] | None = None,
        stop_at: int = 0,
        scale: float = FIRST_SCALE,
        **more: Any,
    ) -> Trainer:
        fields: dict[str, Any] = {
            "store": str(tiny_store),
            "recipe": "default",
            "epochs": 2,
            "batch_size": 2,
            "val_split": "",
            "detector": "sample_retinanet",
            "detector_weights": "none",
            "amp": "fp16",
        }
        say = (said if said is not None else []).append
        config = train_config(fields | more)
        run = Trainer(config, detector, RunFolder(tmp_path / name), CPU, say)
        if config.amp == "fp16":
            run.precision.loss_scale = LossScale(scale)
        run.stop = lambda: 0 < stop_at <= run.step
        return run

    return made


def weights(run: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.isp.parameters()]


def column(run: Trainer, name: str) -> list[str]:
    with (run.folder.path / "steps.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def one_step(precision: Precision, layer: nn.Linear, optimiser: Any, gradient: float) -> StepResult:
    """A step whose loss, the sum of a layer's weights times `gradient`, has that gradient."""
    optimiser.zero_grad()
    loss = (layer.weight * gradient).sum()
    torch.autograd.backward(precision.scaled(loss))
    numbers = BatchNumbers({"loss": torch.zeros(())}, None, None, 1)
    norm = precision.gradient_norm(layer.parameters(), 0.0)
    result = read_step([numbers], norm, precision.scale)
    precision.step(optimiser, result)
    return result


def test_a_scaled_step_is_the_step_without_a_scale() -> None:
    moved = []
    for amp in AMPS:
        torch.manual_seed(0)
        layer = nn.Linear(3, 1, bias=False)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
        result = one_step(Precision(amp, CPU), layer, optimiser, 0.25)
        assert not result.overflowed
        moved.append(layer.weight.detach())
    assert torch.equal(*moved)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 1e36])
def test_an_overflow_halves_the_scale_and_leaves_weights_and_moments(bad: float) -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimiser = torch.optim.Adam(layer.parameters())
    precision = Precision("fp16", CPU)
    one_step(precision, layer, optimiser, 1.0)
    before = layer.weight.detach().clone()
    moments = {name: value.clone() for name, value in optimiser.state[layer.weight].items()}
    result = one_step(precision, layer, optimiser, bad)
    assert result.overflowed
    assert torch.equal(layer.weight, before)
    for name, value in optimiser.state[layer.weight].items():
        assert torch.equal(value, moments[name])
    assert precision.loss_scale == LossScale(FIRST_SCALE / 2, good=0, overflows=1)


@pytest.mark.parametrize(
    "pattern", ["..x..x", "x" * 5 + "." * 7 + "xx.", "." * 9, "xxxx", "......x."]
)
def test_the_scale_moves_as_torchs_own_does(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH_STEPS", 3)
    layer = nn.Linear(1, 1, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=3)
    ours = LossScale()
    for mark in pattern:
        optimiser.zero_grad()
        factor = math.inf if mark == "x" else 1.0
        torch.autograd.backward(theirs.scale((layer.weight * factor).sum()))
        theirs.step(optimiser)
        theirs.update()
        ours = ours.after(overflowed=mark == "x")
        assert ours.scale == theirs.get_scale()


def test_a_scale_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH_STEPS", 1)
    scale = LossScale()
    for _ in range(300):
        scale = scale.after(overflowed=False)
    assert torch.tensor(100.0) * scale.scale < torch.inf


def test_gradients_are_shortened_after_the_scale_is_undone() -> None:
    norms, gradients = [], []
    for amp in AMPS:
        torch.manual_seed(0)
        precision, layer = Precision(amp, CPU), nn.Linear(3, 2)
        layer_loss = layer(torch.ones(1, 3)).square().sum()
        torch.autograd.backward(precision.scaled(layer_loss))
        norm = precision.gradient_norm(layer.parameters(), 0.5)
        assert norm is not None
        norms.append(norm)
        found = [one.grad for one in layer.parameters()]
        gradients.append(torch.cat([one.flatten() for one in found if one is not None]))
    assert float(norms[0]) > 0.5
    assert torch.equal(*norms)
    assert torch.equal(*gradients)
    assert float(gradients[0].norm()) == pytest.approx(0.5, rel=1e-5)


def test_only_overflows_without_a_break_end_the_run() -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.0)
    precision = Precision("fp16", CPU)
    for _ in range(2):
        for _ in range(MOST_OVERFLOWS - 1):
            one_step(precision, layer, optimiser, math.inf)
        one_step(precision, layer, optimiser, 1.0)
    for _ in range(MOST_OVERFLOWS - 1):
        one_step(precision, layer, optimiser, math.inf)
    again = Precision("fp16", CPU)  # as in a run that is continued here
    state = precision.state_dict()
    assert state is not None
    again.load_state_dict(json.loads(json.dumps(state)))
    with pytest.raises(TrainingError, match=f"in {MOST_OVERFLOWS} steps in a row") as raised:
        one_step(again, layer, optimiser, math.inf)
    assert "--amp fp16" in raised.value.mend


@pytest.mark.parametrize(("stopped_at", "options"), [(1, {}), (2, {"clip_grad": 0.1}), (3, {})])
def test_a_resumed_run_goes_on_with_the_same_scale(
    train: Train, stopped_at: int, options: dict[str, float]
) -> None:
    said: list[str] = []
    whole = train("whole", said, scale=TOO_LARGE, **options)
    start = weights(whole)
    assert whole.fit()
    times = column(whole, "skipped").count("1")
    assert 2 <= times < 4
    assert sum("skipped: its gradients overflow float16" in line for line in said) == times
    first = train("parts", stop_at=stopped_at, scale=TOO_LARGE, **options)
    assert not first.fit()
    if stopped_at == 1:
        assert all(map(torch.equal, start, weights(first)))
    second = train("parts", **options)
    second.resume(second.folder.last)
    assert second.fit()
    assert first.losses + second.losses == whole.losses
    for name in ("skipped", "loss_scale", "gradient_norm"):
        assert column(second, name) == column(whole, name)
    assert second.precision.loss_scale == whole.precision.loss_scale
    assert all(map(torch.equal, weights(second), weights(whole)))


def test_a_loss_that_is_no_number_names_float16_too(train: Train) -> None:
    run = train("run")
    with torch.no_grad():
        next(run.isp.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="nan at step 1") as raised:
        run.fit()
    assert "without --amp fp16" in raised.value.mend


def test_a_run_says_nothing_of_a_scale_where_there_is_none(train: Train) -> None:
    run = train("run", amp="bf16", limit_steps=1)
    run.fit()
    assert "skipped" not in (run.folder.path / "steps.csv").read_text()
    assert load_checkpoint(run.folder.last).precision is None


def test_a_checkpoint_of_before_there_was_a_choice_goes_on(train: Train) -> None:
    whole = train("whole", amp="bf16")
    whole.fit()
    train("old", amp="bf16", stop_at=1).fit()
    second = train("old", amp="bf16")
    saved = load_checkpoint(second.folder.last)
    fields = {name: getattr(saved, name) for name in Checkpoint.__dataclass_fields__}
    fields["config"] = TrainConfig(**saved.config.model_dump() | {"amp": True})
    Checkpoint(**fields).save(second.folder.last)
    second.resume(second.folder.last)
    second.fit()
    assert second.losses == whole.losses[1:]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", "bf16"), ("false", None), ("null", None), ('"fp16"', "fp16"), ('"bf16"', "bf16")],
)
def test_earlier_versions_wrote_whether_for_which(written: str, meant: str | None) -> None:
    fields = {"store": "s", "store_fingerprint": "f", "epochs": 1, "batch_size": 1, "lr": 1}
    config = TrainConfig.model_validate_json(json.dumps(fields | {"amp": json.loads(written)}))
    assert config.amp == meant
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_a_card_without_bfloat16_is_told_of_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    with pytest.raises(UsageError, match="does not compute in bfloat16") as raised:
        Precision("bf16", CPU)
    assert "--amp fp16" in raised.value.mend
    Precision("fp16", CPU)
    Precision(None, CPU)


def test_a_card_that_only_imitates_bfloat16_does_not_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def supported(*, including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not module.has_bfloat16(torch.device("cuda:0"))
    assert asked == [False]
    assert module.has_bfloat16(CPU)
