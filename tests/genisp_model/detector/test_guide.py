"""A guide that is not torchvision's trains and scores through the seam.

docs/how-to/write-a-guide.md shows it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.detector.guide import BatchGuide, Guide
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.trainer import Trainer


class BrightCars:
    """Wants pictures of middle gray, and sees one car that fills each of them."""

    class_names: Mapping[int, str] = {3: "car"}

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return {"darkness": (images.mean(dim=(1, 2, 3)) - 0.5).square().mean()}

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        height, width = images.shape[-2:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        return [{"boxes": box, "labels": torch.tensor([3]), "scores": torch.ones(1)}] * len(images)

    def state_hash(self) -> str:
        return "nothing in it can change"


def test_a_guide_of_ten_lines_trains_and_scores(tiny_store: Path, tmp_path: Path) -> None:
    options = {"store": str(tiny_store), "recipe": "default", "epochs": 1, "batch_size": 2}
    config = train_config(options | {"val_split": "val", "lr": 1e-2})
    folder = RunFolder(tmp_path)
    run = Trainer(config, BrightCars(), folder, torch.device("cpu"), lambda text: None)
    assert run.guide is run.detector  # the engine does not know it
    start = [parameter.clone() for parameter in run.isp.parameters()]
    assert run.fit()
    folder.close()
    assert run.step == 2
    after = run.isp.parameters()
    assert any((one != before).any() for one, before in zip(after, start, strict=True))
    with (tmp_path / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [row["loss"] for row in steps] == [row["darkness"] for row in steps]
    with (tmp_path / "results.csv").open() as file:
        (scores,) = csv.DictReader(file)
    assert [name for name in scores if name.startswith("ap_")] == ["ap_car"]


def test_the_detector_and_the_engine_are_guides() -> None:
    detector: FrozenDetector = load_frozen_detector("sample_retinanet", "none")
    guides: list[Guide] = [detector, FrozenEngine(detector, checked=False)]
    assert [isinstance(guide, BatchGuide) for guide in guides] == [False, True]
