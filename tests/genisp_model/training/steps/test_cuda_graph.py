"""The bookkeeping around a CUDA graph. Recording needs a GPU: here a stand-in computes anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genisp_model.data.loader import Batch
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.training import trainer as trainer_module
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.steps.cuda_graph import (
    ROOM,
    GraphedStep,
    Inputs,
    engine_for_graph,
    padded,
)
from genisp_model.training.steps.step import BatchNumbers
from genisp_model.training.trainer import Trainer
from pipeline.errors import UsageError
from schemas.training import TrainConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = TrainConfig(store="s", store_fingerprint="f", epochs=1, batch_size=1, lr=1.0)


@pytest.fixture(scope="module")
def detector() -> FrozenDetector:
    torch.manual_seed(7)
    return load_frozen_detector("sample_retinanet", weights="none")


@pytest.fixture(scope="module")
def engine(detector: FrozenDetector) -> FrozenEngine:
    return FrozenEngine(detector, checked=False)


def batch(boxes: int = 2, *, count: int = 2, size: tuple[int, int] = (64, 96)) -> Batch:
    target = {
        "boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]).repeat(boxes, 1),
        "labels": torch.ones(boxes, dtype=torch.int64),
        "ignore": torch.zeros(0, 4),
    }
    return Batch(
        images=torch.rand(count, 3, *size),
        targets=[target] * count,
        ids=tuple(map(str, range(count))),
        exposure=torch.rand(count),
    )


class Recorder:
    """Records by computing; replays by computing again into the memory of the recording."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.recorded, self.replayed = parameters, 0, 0

    def __call__(self, work: Callable[[], BatchNumbers]) -> tuple[BatchNumbers, Callable[[], None]]:
        self.recorded += 1
        result = work()
        memory = [*result.losses.values(), result.gains, result.matrix]
        memory += [parameter.grad for parameter in self.parameters]

        def replay() -> None:
            self.replayed += 1
            again = work()
            values = [*again.losses.values(), again.gains, again.matrix]
            values += [parameter.grad for parameter in self.parameters]
            for place, value in zip(memory, values, strict=True):
                if place is not None and value is not None:
                    place.copy_(value)

        return result, replay


def test_boxes_have_room_that_no_loss_sees(engine: FrozenEngine) -> None:
    one = batch(3)
    objects = padded(one)
    assert objects.boxes.shape == (2, ROOM, 4)
    assert objects.valid.sum(dim=1).tolist() == [3, 3]
    wanted = engine.losses_by_image(one.images, one.targets)
    found = engine.losses_of(one.images, objects)
    for name, losses in wanted.items():
        torch.testing.assert_close(found[name], losses, rtol=1e-6, atol=0)


def test_other_batches_lie_in_the_same_memory() -> None:
    first, second = batch(2), batch(5)
    inputs = Inputs.of(first)
    places = [inputs.images, inputs.exposure, inputs.objects.boxes, inputs.objects.labels]
    addresses = [place.data_ptr() for place in places]
    assert inputs.images.data_ptr() != first.images.data_ptr()
    inputs.take(second)
    assert [place.data_ptr() for place in places] == addresses
    assert torch.equal(inputs.images, second.images)
    assert torch.equal(inputs.exposure, second.exposure)
    assert torch.equal(inputs.objects.boxes, padded(second).boxes)
    assert inputs.objects.valid.sum(dim=1).tolist() == [5, 5]


def test_what_does_not_fit_is_said_once(engine: FrozenEngine) -> None:
    said: list[str] = []

    def work(inputs: Inputs) -> BatchNumbers:
        return BatchNumbers({"loss": inputs.images.sum()}, None, None, 2)

    step = GraphedStep(work, engine, [], Recorder([]))
    assert step.takes(batch(), said.append)
    step(batch())
    assert step.takes(batch(ROOM), said.append)
    assert not said
    region = {"ignore": torch.ones(1, 4)}
    misfits = {
        "of shape (1, 3, 64, 96), the graph's is (2, 3, 64, 96)": batch(count=1),
        f"more than {ROOM} boxes": batch(ROOM + 1),
        "regions to ignore": replace(batch(), targets=[t | region for t in batch().targets]),
    }
    for reason, misfit in misfits.items():
        said.clear()
        step = GraphedStep(work, engine, [], Recorder([]))
        step(batch())
        assert not step.takes(misfit, said.append)
        assert not step.takes(misfit, said.append)
        (line,) = said
        assert reason in line
        assert step.takes(batch(), said.append)


def test_a_size_that_the_detector_changes_does_not_fit(
    engine: FrozenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_sizes", {(64, 96): (80, 120)})
    said: list[str] = []
    assert not GraphedStep(lambda _: None, engine, []).takes(batch(), said.append)
    assert "of 96x64 pixels, which the detector resizes" in said[0]


def test_gradients_come_back_after_they_were_let_go(engine: FrozenEngine) -> None:
    weight = nn.Parameter(torch.ones(()))

    def work(inputs: Inputs) -> BatchNumbers:
        loss = weight * inputs.images.sum()
        torch.autograd.backward(loss)
        return BatchNumbers({"loss": loss.detach()}, None, None, 2)

    recorder = Recorder([weight])
    step = GraphedStep(work, engine, [weight], recorder)
    for one in (batch(), batch(), batch()):
        weight.grad = None
        result = step(one)
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, one.images.sum())
        torch.testing.assert_close(result.losses["loss"], one.images.sum())
    assert (recorder.recorded, recorder.replayed) == (1, 3)


@pytest.mark.parametrize(
    ("told", "device", "reason"),
    [
        ({}, CPU, "for a CUDA device"),
        ({"accumulate": 2}, CUDA, "--accumulate 1"),
        ({"amp": "fp16"}, CUDA, "--amp fp16"),
        ({"checkpoint_activations": True}, CUDA, "--checkpoint-activations"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    told: dict[str, Any], device: torch.device, reason: str, engine: FrozenEngine
) -> None:
    with pytest.raises(UsageError, match=f"cuda-graph .*{reason}"):
        engine_for_graph(CONFIG.model_copy(update=told), engine, device)


def test_only_the_engine_is_recorded(engine: FrozenEngine, detector: FrozenDetector) -> None:
    assert engine_for_graph(CONFIG, engine, CUDA) is engine
    with pytest.raises(UsageError, match="for the frozen engine"):
        engine_for_graph(CONFIG, detector, CUDA)


def losses(run: Trainer) -> list[float]:
    assert run.fit()
    return run.losses


def test_a_run_by_the_graph_has_the_losses_of_one_without(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fields: dict[str, Any] = {
        "store": str(tiny_store),
        "recipe": "default",
        "epochs": 2,
        "batch_size": 3,  # of four samples: every other batch has another shape
        "flip": 0.5,
        "gray_world": 0.1,
        "clip_grad": 1.0,
        "val_split": "",
        "detector": "sample_retinanet",
        "detector_weights": "none",
    }

    def made(name: str, **more: Any) -> Trainer:
        config = train_config(fields | more)
        return Trainer(config, detector, RunFolder(tmp_path / name), CPU, said.append)

    plain = made("plain")
    recorders: list[Recorder] = []

    def graphed(work: Any, engine: FrozenEngine, parameters: Any) -> GraphedStep[BatchNumbers]:
        recorders.append(Recorder(list(parameters)))
        return GraphedStep(work, engine, recorders[-1].parameters, recorders[-1])

    monkeypatch.setattr(trainer_module, "engine_for_graph", lambda _, guide, __: guide)
    monkeypatch.setattr(trainer_module, "GraphedStep", graphed)
    run = made("graph", speedups=("cuda-graph",))
    assert losses(run) == pytest.approx(losses(plain), rel=1e-5)
    assert (recorders[0].recorded, recorders[0].replayed) == (1, 2)
    assert sum("cuda-graph" in line for line in said) == 1
