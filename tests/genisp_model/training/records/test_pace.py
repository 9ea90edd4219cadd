"""What is ahead of a run is what it then does, and the time it will take is what its steps took."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from genisp_model import device
from genisp_model.device import peak_memory
from genisp_model.training.records.pace import Ahead, Pace, ahead, clock
from genisp_model.training.records.report import StepReport
from genisp_model.training.steps.step import StepResult
from schemas.training import TrainConfig


def config(**fields: Any) -> TrainConfig:
    given: dict[str, Any] = {"store": "s", "store_fingerprint": "f", "batch_size": 1, "lr": 1.0}
    return TrainConfig(**given | fields)


def simulated(chosen: TrainConfig, batches: int) -> list[tuple[dict[str, int], Ahead]]:
    """Every step of a run, done one by one as the trainer does, with what then followed it."""
    states: list[dict[str, int]] = []
    validated: list[int] = []  # steps done before each validation
    step = 0
    for epoch in range(chosen.epochs):
        for cursor in range(0, batches, chosen.accumulate):
            step += 1
            cursor = min(cursor + chosen.accumulate, batches)
            states.append({"step": step, "epoch": epoch, "cursor": cursor})
            if step == chosen.limit_steps:
                break
        last = epoch + 1 == chosen.epochs or step == chosen.limit_steps
        if chosen.val_split and (last or (epoch + 1) % chosen.val_every == 0):
            validated.append(step)
        if step == chosen.limit_steps:
            break
    return [
        (state, Ahead(step - state["step"], sum(at >= state["step"] for at in validated)))
        for state in states
    ]


@pytest.mark.parametrize("val_split", ["val", ""])
@pytest.mark.parametrize("every", [1, 2, 3, 9])
@pytest.mark.parametrize(("batches", "accumulate"), [(1, 1), (4, 1), (5, 2), (3, 8)])
def test_what_is_ahead_is_what_follows(
    val_split: str, every: int, batches: int, accumulate: int
) -> None:
    an_epoch = math.ceil(batches / accumulate)
    for limit in range(4 * an_epoch + 2):
        chosen = config(
            epochs=4,
            accumulate=accumulate,
            limit_steps=limit,
            val_split=val_split,
            val_every=every,
        )
        for state, expected in simulated(chosen, batches):
            found = ahead(chosen, **state, batches=batches)
            assert found == expected, (limit, state)


def test_the_first_step_of_a_process_and_validations_are_not_the_rate() -> None:
    pace = Pace()
    left = Ahead(steps=100, validations=2)
    pace.stepped(60.0, images=8)  # starting up
    assert pace.eta(left) == "?"
    assert pace.eta(Ahead(0, 0)) == "0:00:00"
    for _ in range(4):
        pace.stepped(2.0, images=8)
    assert pace.eta(left) == "0:03:20+"  # no validation was measured
    pace.validated(30.0)
    pace.validated(50.0)
    assert pace.eta(left) == "0:04:40"  # 100 x 2 s + 2 x 40 s
    assert pace.eta(Ahead(0, 1)) == "0:00:40"
    assert pace.validation_share() == 80 / (80 + 68)
    assert Pace().validation_share() is None


def test_a_run_that_gets_slower_says_so() -> None:
    pace = Pace()
    for seconds in [1.0] * 500 + [3.0] * 100:
        pace.stepped(seconds, images=1)
    assert pace.eta(Ahead(10, 0)) == "0:00:30"


def test_images_per_second_are_of_the_steps_since_it_was_asked() -> None:
    pace = Pace()
    assert pace.images_per_second() is None
    pace.stepped(2.0, images=8)
    pace.stepped(2.0, images=4)
    assert pace.images_per_second() == 3.0
    assert pace.images_per_second() is None


def test_clock() -> None:
    assert [clock(0.4), clock(59.6), clock(3723), clock(100 * 3600)] == [
        *("0:00:00", "0:01:00", "1:02:03", "100:00:00")
    ]


@pytest.mark.parametrize("system", ["proc", "getrusage"])
def test_peak_memory_is_resident_and_has_room_for_what_was_used(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "getrusage":
        monkeypatch.setattr(device, "Path", lambda _: tmp_path / "missing")
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    held = torch.ones(64 << 20, dtype=torch.uint8)
    after = peak_memory(cpu)
    assert before is not None
    assert after is not None
    assert after >= before
    assert after > len(held)
    assert after < 1 << 44


@pytest.mark.parametrize("steps", [99_999, 9_999_999])
def test_the_longest_usual_line_fits_a_terminal_of_120_columns(steps: int) -> None:
    result = StepResult(12.3456, {}, (12.3456,), None, None, images=8, gradient_norm=12345.6)
    line, *_ = StepReport(
        step=steps,
        steps=steps,
        epoch=200,
        epochs=200,
        result=result,
        rate=1.23456e-5,
        seconds=0.4567,
        data_seconds=0.0123,
        eta="100:00:00",
        memory=int(76.5e9),
    ).lines()
    assert len(line) <= 120, line
    for part in (f"step {steps}/{steps}", "ETA 100:00:00", "data 0.012", "76.5 GB"):
        assert part in line
