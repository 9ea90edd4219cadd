"""TensorBoard's own reader finds each step once, rising, however a run was stopped and resumed."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from genisp_model.training import trainer as trainer_module
from genisp_model.training.trainer import Trainer
from tests.kit.quick_training import quick_trainer

pytestmark = pytest.mark.usefixtures("small_copies")

STEPS, AN_EPOCH = 6, 2


@pytest.fixture(autouse=True)
def _a_second_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are read by name, which has the second they were made in: people are slower."""
    now, started = time.time, count()
    monkeypatch.setattr(time, "time", lambda: now() + next(started))


def resumed(store: Path, folder: Path, **options: Any) -> Trainer:
    run = quick_trainer(store, folder, **options)
    run.resume(run.folder.last)
    return run


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar as TensorBoard has it."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: [(one.step, one.value) for one in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def tables(folder: Path) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """The same from the tables, which are rewritten whole when a run is resumed."""
    for group, name in (("train", "steps.csv"), ("val", "results.csv")):
        with (folder / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column in rows[0].keys() - {"step", "epoch"}:
            yield f"{group}/{column}", [(int(row["step"]), float(row[column])) for row in rows]


def check(folder: Path) -> None:
    board = shown(folder)
    assert [step for step, _ in board["train/loss"]] == list(range(1, STEPS + 1))
    steps = [step for step, _ in board["val/loss"]]
    assert steps == sorted(set(steps))
    expected = dict(tables(folder))
    assert board.keys() == expected.keys()
    for tag, values in expected.items():
        assert [step for step, _ in board[tag]] == [step for step, _ in values]
        shown_values = [value for _, value in board[tag]]
        assert shown_values == pytest.approx([value for _, value in values], rel=1e-6)


def stops_at(run: Trainer, step: int) -> bool:
    return run.step >= step


@pytest.mark.parametrize("stops", [(2,), (1, 3, 4)])
def test_after_stops(tiny_store: Path, tmp_path: Path, stops: tuple[int, ...]) -> None:
    run = quick_trainer(tiny_store, tmp_path)
    for stop in stops:
        run.stop = partial(stops_at, run, stop)
        assert not run.fit()
        run.folder.close()
        run = resumed(tiny_store, tmp_path)
    assert run.fit()
    run.folder.close()
    check(tmp_path)


def test_after_limits(tiny_store: Path, tmp_path: Path) -> None:
    """A limit inside of an epoch is scored, and the epoch's end is scored again."""
    run = quick_trainer(tiny_store, tmp_path, limit_steps=1)
    assert run.fit()
    run.folder.close()
    for limit in (2, 3, 0):
        run = resumed(tiny_store, tmp_path, limit_steps=limit)
        assert run.fit()
        run.folder.close()
    check(tmp_path)
    assert [step for step, _ in shown(tmp_path)["val/loss"]] == [1, 2, 3, 4, 6]


class KilledError(Exception):
    """What is on disk then is all that is left."""


@pytest.mark.parametrize(
    ("every", "killed_at", "when"),
    [
        (1, 3, "after the step"),
        (3, 5, "after the step"),
        (2, 4, "after its validation"),
        (3, 4, "after its validation"),
    ],
)
def test_after_a_kill(
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    killed_at: int,
    when: str,
) -> None:
    """A run folder copied while a run writes it is what a kill leaves: the rest was not flushed.

    Between a validation and the checkpoint after it, the last one may be of the same step.
    """
    monkeypatch.setattr(trainer_module, "CHECKPOINT_EVERY", every)
    run = quick_trainer(tiny_store, tmp_path / "killed")
    left = tmp_path / "left"

    def die() -> bool:
        if run.step == killed_at and not left.exists():
            shutil.copytree(run.folder.path, left)
            raise KilledError
        return False

    if when == "after the step":
        run.stop = die
    else:
        validated = run._validate

        def validate_and_die(told: Any) -> None:
            validated(told)
            if run.step >= killed_at:
                shutil.copytree(run.folder.path, left)
                raise KilledError

        monkeypatch.setattr(run, "_validate", validate_and_die)
    with pytest.raises(KilledError):
        run.fit()
    run.folder.close()
    again = resumed(tiny_store, left)
    assert again.fit()
    again.folder.close()
    check(left)
