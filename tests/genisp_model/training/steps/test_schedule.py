"""The learning rate is what torch's own schedulers give, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from genisp_model.training.steps.schedule import learning_rate, refuse_long_warmup
from pipeline.errors import UsageError
from schemas.training import TrainConfig

EPOCHS, AN_EPOCH = 6, 7
STEPS = EPOCHS * AN_EPOCH


def config(**fields: Any) -> TrainConfig:
    given: dict[str, Any] = {
        "store": "s",
        "store_fingerprint": "f",
        "batch_size": 1,
        "lr": 0.02,
        "epochs": EPOCHS,
    }
    return TrainConfig(**given | fields)


def ours(chosen: TrainConfig) -> list[float]:
    return [
        learning_rate(chosen, step=step, epoch=step // AN_EPOCH, steps=STEPS)
        for step in range(STEPS)
    ]


def torchs(make: Callable[[Optimizer], LRScheduler]) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    scheduler = make(optimiser)
    rates = []
    for _ in range(STEPS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def warmup(optimiser: Optimizer, steps: int) -> LRScheduler:
    return LinearLR(optimiser, start_factor=1 / steps, total_iters=steps - 1)


def test_by_steps() -> None:
    rates = torchs(lambda one: MultiStepLR(one, [2 * AN_EPOCH, 5 * AN_EPOCH]))
    assert ours(config(lr_steps=(2, 5))) == pytest.approx(rates, rel=1e-12)
    assert len(set(rates)) == 3


def test_constant_ignores_epochs() -> None:
    assert set(ours(config(lr_schedule="constant", lr_steps=(2, 5)))) == {0.02}


@pytest.mark.parametrize("final", [0.0, 0.01, 0.5, 1.0])
def test_cosine(final: float) -> None:
    rates = torchs(lambda one: CosineAnnealingLR(one, STEPS, eta_min=0.02 * final))
    assert ours(config(lr_schedule="cosine", lr_final=final)) == pytest.approx(rates, abs=1e-15)


@pytest.mark.parametrize("steps", [2, 5, AN_EPOCH, 20, STEPS - 1])
def test_cosine_after_a_warmup(steps: int) -> None:
    rates = torchs(
        lambda one: SequentialLR(
            one,
            [warmup(one, steps), CosineAnnealingLR(one, STEPS - steps, eta_min=0.02 * 0.1)],
            [steps],
        )
    )
    chosen = config(lr_schedule="cosine", lr_final=0.1, warmup_steps=steps)
    assert ours(chosen) == pytest.approx(rates, abs=1e-15)


def test_a_warmup_multiplies_what_falls_by_steps() -> None:
    rising = torchs(lambda one: warmup(one, 10))
    falling = torchs(lambda one: MultiStepLR(one, [AN_EPOCH]))
    expected = [a * b / 0.02 for a, b in zip(rising, falling, strict=True)]
    assert ours(config(lr_steps=(1,), warmup_steps=10)) == pytest.approx(expected, rel=1e-12)


def test_a_step_beyond_the_run_has_the_last_rate() -> None:
    """Samples that came or went make an epoch begin again: there are more steps than planned."""
    chosen = config(lr_schedule="cosine", lr_final=0.1)
    assert learning_rate(chosen, step=STEPS + 9, epoch=5, steps=STEPS) == pytest.approx(0.002)


def test_a_warmup_as_long_as_the_run_reaches_its_rate_and_a_longer_one_is_refused() -> None:
    chosen = config(warmup_steps=STEPS, lr_schedule="cosine")
    refuse_long_warmup(chosen, STEPS)
    assert ours(chosen)[-1] == pytest.approx(0.02)
    with pytest.raises(UsageError, match="has 41 optimiser steps") as raised:
        refuse_long_warmup(chosen, STEPS - 1)
    assert "41" in raised.value.mend


def test_an_older_config_means_the_rate_it_meant() -> None:
    older = {
        name: value
        for name, value in config(lr_steps=(1, 3)).model_dump(mode="json").items()
        if name not in ("lr_schedule", "lr_final", "warmup_steps", "clip_grad", "val_every")
    }
    read = TrainConfig.model_validate(older)
    assert read == config(lr_steps=(1, 3))
    assert ours(read) == [
        0.02 * 0.1 ** sum(s // AN_EPOCH >= e for e in (1, 3)) for s in range(STEPS)
    ]
    assert (read.clip_grad, read.val_every) == (0.0, 1)
