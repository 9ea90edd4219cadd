"""Training runs whose steps take milliseconds: a guide of a few lines, and no curves drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.trainer import Trainer


class GreyGuide:
    """Likes grey pictures in which each line is like the next, and sees a car wherever it looks."""

    class_names: Mapping[int, str] = {1: "person", 2: "bicycle", 3: "car"}

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        lines = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
        return {"grey": (images - 0.5).square().mean(), "lines": lines}

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        height, width = images.shape[-2:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        return [{"boxes": box, "labels": torch.tensor([3]), "scores": torch.ones(1)}] * len(images)

    def state_hash(self) -> str:
        return "nothing in it can change"


def quick_trainer(store: Path, folder: Path, stop_at: int = 0, **options: Any) -> Trainer:
    """A run of three epochs of batches of two, under `GreyGuide`; it stops after step `stop_at`."""
    fields: dict[str, Any] = {
        "store": str(store),
        "recipe": "default",
        "epochs": 3,
        "batch_size": 2,
        "lr": 1e-2,
        "val_split": "val",
    }
    made = Trainer(
        train_config(fields | options),
        GreyGuide(),
        _Undrawn(folder),
        torch.device("cpu"),
        lambda text: None,
    )
    made.stop = lambda: 0 < stop_at <= made.step
    return made


class _Undrawn(RunFolder):
    def draw_curves(self) -> None:
        """A second of matplotlib, after each validation."""
