"""The best score and early stopping, against lists worked out by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genisp_model.checkpoint import load_checkpoint
from genisp_model.evaluation.scores import Evaluation
from genisp_model.training import trainer as trainer_module
from genisp_model.training.best import Best
from genisp_model.training.run import train_config
from genisp_model.training.trainer import Trainer
from pipeline.errors import TrainingError, UsageError
from schemas.choices import BestBy
from schemas.training import TrainConfig
from tests.kit.quick_training import quick_trainer

pytestmark = pytest.mark.usefixtures("small_copies")


def scores(loss: float, ap: float) -> Evaluation:
    return Evaluation(ap=ap, ap50=ap, ap75=ap, ap_by_class={}, losses={"a": loss}, block="")


@pytest.mark.parametrize(
    ("by", "taken"),
    [("loss", [True, False, True, False, False]), ("ap", [True, True, False, False, True])],
)
def test_the_best_by_loss_is_the_lowest_and_by_ap_the_highest(
    by: BestBy, taken: list[bool]
) -> None:
    best = Best(by)
    assert str(best) == ""
    rows = [(0.5, 0.1), (0.6, 0.3), (0.4, 0.3), (0.4, 0.2), (0.7, 0.31)]
    assert [best.take(scores(*row)) for row in rows] == taken
    assert best.score == (0.4 if by == "loss" else 0.31)
    expected = "best validation loss 0.4000" if by == "loss" else "best validation AP 0.3100"
    assert str(best) == expected


def test_a_loss_that_is_no_number_and_an_ap_of_no_box_are_never_the_best() -> None:
    for by, row in (("loss", (math.nan, 0.5)), ("ap", (math.inf, 0.5)), ("ap", (0.1, -1.0))):
        best = Best("loss" if by == "loss" else "ap", patience=1)
        assert not best.take(scores(*row))
        assert best.is_exhausted
        assert str(best) == ""
    assert Best("loss").take(scores(0.1, -1.0))


@pytest.mark.parametrize(
    ("patience", "stops_after"), [(0, None), (1, 2), (2, 5), (3, 6), (4, None)]
)
def test_patience_counts_validations_in_a_row(patience: int, stops_after: int | None) -> None:
    best = Best("loss", patience)
    ended = None
    for number, loss in enumerate([1.0, 1.0, 0.9, 0.95, 0.9, 0.91, 0.5, 0.6, 0.7], start=1):
        best.take(scores(loss, 0.0))
        ended = ended or (number if best.is_exhausted else None)
    assert ended == stops_after


#: AP and loss of the validations in the runs below; the best by loss and by AP are different ones.
SCRIPT = [(0.9, 0.1), (0.5, 0.2), (0.7, 0.4), (0.6, 0.3), (0.8, 0.1), (0.4, 0.2), (0.3, 0.1)]


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    def validate(render: Any, *_: object) -> Evaluation:
        return scores(*SCRIPT[render.__self__.loader.epoch - 1])  # the next epoch has come

    monkeypatch.setattr(trainer_module, "validate", validate)
    monkeypatch.setattr(trainer_module, "draw", lambda *_: None)


def run_of(store: Path, folder: Path, stop_at: int = 0, **options: Any) -> Trainer:
    return quick_trainer(store, folder, stop_at, **{"epochs": len(SCRIPT)} | options)


def validated(folder: Path) -> Sequence[str]:
    with (folder / "results.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(("by", "epoch", "score"), [("loss", 2, 0.5), ("ap", 3, 0.4)])
def test_best_pt_follows_the_chosen_score(
    tiny_store: Path, tmp_path: Path, by: BestBy, epoch: int, score: float
) -> None:
    run = run_of(tiny_store, tmp_path, best_by=by, epochs=4)
    assert run.fit()
    saved = load_checkpoint(run.folder.best)
    assert saved.step == 2 * epoch  # an epoch has two steps
    assert saved.best == run.best == score
    assert load_checkpoint(run.folder.last).best == score
    other: BestBy = "ap" if by == "loss" else "loss"
    second = run_of(tiny_store, tmp_path, best_by=other, epochs=4)
    with pytest.raises(TrainingError, match=f"--best-by: {by} against {other}"):
        second.resume(second.folder.last)


@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_early_stopping_is_the_same_after_a_break(
    tiny_store: Path, tmp_path: Path, stop_at: int
) -> None:
    first = run_of(tiny_store, tmp_path, stop_at, patience=3)
    assert not first.fit()
    second = run_of(tiny_store, tmp_path, patience=3)
    second.resume(second.folder.last)
    assert second.fit()
    assert validated(tmp_path) == list("12345")
    assert (second.step, second.best) == (10, 0.5)
    saved = load_checkpoint(second.folder.last)
    assert (saved.step, saved.since_best, saved.best) == (10, 3, 0.5)
    assert load_checkpoint(second.folder.best).step == 4


def test_a_run_that_stopped_early_goes_on_with_more_patience_only(
    tiny_store: Path, tmp_path: Path
) -> None:
    run_of(tiny_store, tmp_path, patience=3).fit()
    same = run_of(tiny_store, tmp_path, patience=3)
    same.resume(same.folder.last)
    assert same.fit()
    assert same.step == 10
    more = run_of(tiny_store, tmp_path, patience=0)
    more.resume(more.folder.last)
    assert more.fit()
    assert validated(tmp_path) == list("1234567")
    assert (more.step, more.best) == (14, 0.3)


def test_patience_without_validations_is_refused(tiny_store: Path) -> None:
    fields = {"store": str(tiny_store), "recipe": "default", "patience": 2}
    assert train_config(fields).patience == 2
    with pytest.raises(UsageError, match="counts validations"):
        train_config(fields | {"val_split": ""})


def test_an_older_checkpoint_follows_the_loss_and_has_all_its_patience(
    tiny_store: Path, tmp_path: Path
) -> None:
    run_of(tiny_store, tmp_path, stop_at=7).fit()
    last = tmp_path / "checkpoints" / "last.pt"
    saved = load_checkpoint(last)
    older = saved.config.model_dump(mode="json", exclude={"best_by", "patience"})
    config = TrainConfig.model_validate(older)
    assert config == saved.config
    assert (config.best_by, config.patience) == ("loss", 0)
    fields = {name: getattr(saved, name) for name in saved.__dataclass_fields__}
    fields.pop("since_best")
    replace(saved, **fields).save(last)
    second = run_of(tiny_store, tmp_path)
    second.resume(last)
    assert second.best == 0.5
