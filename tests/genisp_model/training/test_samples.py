"""A limited validation scores the same samples in every epoch and after a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genisp_model.data.dataset import StoreDataset
from genisp_model.training import trainer as trainer_module
from genisp_model.training import validation
from genisp_model.training.run import train_config
from genisp_model.training.samples import open_samples
from pipeline.errors import TrainingError, UsageError
from pipeline.store.reader import open_store
from schemas.training import TrainConfig
from tests.commands.invoke import train
from tests.kit.quick_training import quick_trainer

pytestmark = pytest.mark.usefixtures("small_copies")


def test_every_validation_scores_the_same_few_samples_and_training_takes_all(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[list[str]] = []
    validate = validation.validate

    def watched(*args: Any, **named: Any) -> Any:
        scores = validate(*args, **named)
        scored.append(sorted(scores.losses))
        return scores

    monkeypatch.setattr(trainer_module, "validate", watched)
    assert not quick_trainer(tiny_store, tmp_path, val_split="train", val_limit=2, stop_at=3).fit()
    rest = quick_trainer(tiny_store, tmp_path, val_split="train", val_limit=2)
    rest.resume(rest.folder.last)
    assert rest.fit()
    ids = StoreDataset(tiny_store, split="train").ids
    assert len(ids) == 4
    assert scored == [sorted([ids[1], ids[3]])] * 3
    assert len(rest.loader.dataset) == 4
    assert StoreDataset(tiny_store, split="train", limit=9).ids == ids
    other = quick_trainer(tiny_store, tmp_path, val_split="train", val_limit=3)
    with pytest.raises(TrainingError, match="--val-limit: 2 against 3"):
        other.resume(other.folder.last)


def test_an_older_config_scores_all() -> None:
    fields: dict[str, Any] = {"store": "s", "store_fingerprint": "f", "epochs": 1, "batch_size": 1}
    assert TrainConfig.model_validate(fields | {"lr": 1.0}).val_limit == 0


def test_samples_without_boxes_are_refused_and_the_limit_is_named(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config({"store": str(tiny_store), "recipe": "default"})
    monkeypatch.setattr(StoreDataset, "has_boxes", lambda self: False)
    for limit, said in ((0, "split 'train' has no boxes"), (1, "among the 1 samples")):
        with pytest.raises(UsageError, match=said) as raised:
            open_samples(
                open_store(tiny_store), config, "train", {1: "person"}, lambda _: None, limit=limit
            )
        assert ("--val-limit" in raised.value.mend) == bool(limit)


def test_the_end_says_what_share_of_the_time_validation_took(
    tiny_store: Path, tmp_path: Path
) -> None:
    quick = ("--detector", "sample_retinanet", "--detector-weights", "none", "--limit-steps", 1)
    done = train("--store", tiny_store, *quick, "--val-limit", 1, "--output-dir", tmp_path / "a")
    assert done.exit_code == 0, done.output
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("done: ")]
    share = int(line.partition("validation took ")[2].partition("%")[0])
    assert 0 < share < 100
    none = train("--store", tiny_store, *quick, "--val-split", "", "--output-dir", tmp_path / "b")
    assert none.stdout.splitlines()[-1] == f"done: 1 steps; {tmp_path / 'b'}"
