"""Running out of memory is said in the same way wherever a run does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from genisp_model.data.loader import StreamLoader
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.evaluation import run as evaluation
from genisp_model.evaluation.scores import Evaluation
from genisp_model.training import trainer as trainer_module
from genisp_model.training import validation
from genisp_model.training.memory import set_up_mend, step_mend, validation_mend
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import run_training, train_config
from genisp_model.training.trainer import Trainer
from pipeline.errors import TrainingError
from schemas.training import FREE_ON_RESUME, TrainConfig

CPU = torch.device("cpu")


def full(*_: object, **__: object) -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def options(tiny_store: Path) -> dict[str, Any]:
    return {
        "store": str(tiny_store),
        "recipe": "default",
        "epochs": 1,
        "batch_size": 2,
        "limit_steps": 1,
        "val_split": "val",
        "detector": "sample_retinanet",
        "detector_weights": "none",
    }


@pytest.fixture
def made(options: dict[str, Any], tmp_path: Path) -> Callable[[], Trainer]:
    def trainer(**more: Any) -> Trainer:
        detector = load_frozen_detector("sample_retinanet", weights="none")
        folder = RunFolder(tmp_path / "run")
        return Trainer(train_config(options | more), detector, folder, CPU, lambda _: None)

    return trainer


def test_the_detector_that_does_not_fit(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenDetector, "to", full)
    with pytest.raises(TrainingError, match="not enough memory on cpu for the detector") as raised:
        run_training(
            options | {"device": "cpu"}, tmp_path / "run", resume=False, say=lambda _: None
        )
    assert "a smaller --detector" in raised.value.mend


def test_the_guide_that_does_not_fit(
    made: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "guide_by", full)
    with pytest.raises(TrainingError, match="for the detector and the network") as raised:
        made()
    assert "--plain-detector" in raised.value.mend


def test_the_network_that_does_not_fit(
    made: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(TrainingError, match="for the detector and the network"):
        made()


def test_the_checkpoint_that_does_not_fit(
    made: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made()
    run.save(run.folder.last)
    monkeypatch.setattr(run.optimiser, "load_state_dict", full)
    with pytest.raises(TrainingError) as raised:
        run.resume(run.folder.last)
    assert raised.value.message == "not enough memory on cpu for the checkpoint"


@pytest.mark.parametrize("place", ["batch", "forward", "losses", "optimiser"])
def test_a_step_that_does_not_fit(
    made: Callable[[], Trainer], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made()
    where: dict[str, tuple[object, str]] = {
        "batch": (StreamLoader, "__iter__"),
        "forward": (run.isp, "forward_with_parameters"),
        "losses": (run.guide, "losses"),
        "optimiser": (run.optimiser, "step"),
    }
    monkeypatch.setattr(*where[place], lambda *_: iter(full, None) if place == "batch" else full())
    with pytest.raises(TrainingError, match="not enough memory on cpu at step 1") as raised:
        run.fit()
    assert raised.value.path == str(run.folder.path)
    assert "--accumulate 2" in raised.value.mend
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_a_first_batch_that_does_not_fit(
    made: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StreamLoader, "__iter__", full)
    with pytest.raises(TrainingError, match="for the first batch"):
        made(overfit_one_batch=True)


@pytest.mark.parametrize(
    ("name", "doing"),
    [
        ("evaluate", "in the validation after epoch 1"),
        ("_pictures", "for the pictures after epoch 1"),
    ],
)
def test_a_validation_that_does_not_fit(
    made: Callable[[], Trainer], name: str, doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made()
    monkeypatch.setattr(validation, name, full)
    if name == "_pictures":
        scores = Evaluation(0.0, 0.0, 0.0, {}, {}, "")
        monkeypatch.setattr(validation, "evaluate", lambda *_: scores)
    with pytest.raises(TrainingError, match=f"not enough memory on cpu {doing}") as raised:
        run.fit()
    assert "--batch-size 1" in raised.value.mend
    assert "--checkpoint-activations" not in raised.value.mend


def test_scoring_that_does_not_fit(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "compare", full)
    told = options | {"device": "cpu", "split": "val", "level": "resized", "box_loss": None}
    with pytest.raises(TrainingError, match="not enough memory on cpu for scoring") as raised:
        evaluation.run_evaluation(told, None, lambda _: None)
    assert "--level resized" in raised.value.mend


CONFIG = TrainConfig(store="s", store_fingerprint="f", epochs=1, batch_size=4, accumulate=2, lr=1.0)
MENDS: tuple[Callable[..., str], ...] = (step_mend, validation_mend)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("mend", MENDS)
@pytest.mark.parametrize(
    "told",
    [{}, {"batch_size": 1}, {"amp": "fp16"}, {"checkpoint_activations": True}, {"level": "packed"}],
)
def test_a_mend_names_what_is_not_done_yet_and_may_be_done(
    told: dict[str, Any], mend: Callable[..., str], saved: bool
) -> None:
    config = CONFIG.model_copy(update=told)
    text = mend(config, saved=saved)
    options = {
        "--batch-size 1 --accumulate 8": config.batch_size > 1,
        "--amp": config.amp is None,
        "--level resized": config.level == "packed",
        "--checkpoint-activations": mend is step_mend and not config.checkpoint_activations,
    }
    for option, helps in options.items():
        assert (option in text) == helps, text
    # What is refused when a run goes on is for a new one; the others go on.
    resumed, _, new = text.partition("into another --output-dir")
    if saved:
        for option in ("--batch-size", "--amp", "--level"):
            assert option not in resumed
            assert option.lstrip("-").replace("-", "_") not in FREE_ON_RESUME
        assert "--checkpoint-activations" not in new
    else:
        assert "--resume" not in text


def test_what_does_not_go_with_a_graph_is_named_without_it() -> None:
    graph = CONFIG.model_copy(update={"speedups": ("cuda-graph",)})
    text = step_mend(graph, saved=True)
    assert "--resume --speedup auto --checkpoint-activations" in text
    assert "--accumulate 8 without cuda-graph" in text


def test_a_plain_detector_is_not_told_to_be_plain() -> None:
    plain = CONFIG.model_copy(update={"plain_detector": True})
    assert "--plain-detector" in set_up_mend(CONFIG)
    assert "--plain-detector" not in set_up_mend(plain)
