"""The run folder: everything one training wrote, in files people already know how to read."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageDraw
from torch import Tensor

from genisp_model.renderings import render_classical
from schemas.training import TrainConfig

_COLOURS = {1: (235, 80, 70), 2: (90, 200, 90), 3: (80, 170, 255)}


@dataclass(frozen=True)
class PictureRow:
    """One sample before and after.

    Attributes
    ----------
    xyz, made
        (1, 3, h, w): the stored image, and GenISP's picture, clamped for the eye only.
    exposure
        (1,) what the image is divided by.
    target
        Detection target: ``boxes`` xyxy and ``labels``, drawn on both; ``ignore`` in grey.
    class_names
        Label -> name.
    """

    xyz: Tensor
    exposure: Tensor
    made: Tensor
    target: Mapping[str, Tensor]
    class_names: Mapping[int, str]


class RunFolder:
    """One training run on disk.

    Parameters
    ----------
    path
        Made if missing. ``config.json``, ``environment.json``, ``steps.csv``, ``results.csv``,
        ``curves.png``, ``pictures/``, ``checkpoints/``, and TensorBoard's events.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(path))

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.path / "checkpoints" / "best.pt"

    def describe(self, config: TrainConfig, facts: Mapping[str, str]) -> None:
        """Write what the run was told, and where it ran."""
        text = json.dumps(config.model_dump(mode="json"), indent=1)
        (self.path / "config.json").write_text(text + "\n")
        environment = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "machine": platform.machine(),
            **facts,
        }
        (self.path / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what was logged beyond a checkpoint: those steps are about to be done again."""
        for name in ("steps.csv", "results.csv"):
            path = self.path / name
            if path.exists():
                with path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
                path.unlink()
                for row in rows:
                    if int(row["step"]) <= step:
                        self._append(name, row)

    def log_step(self, values: Mapping[str, float | int]) -> None:
        """One optimiser step; `values` has ``step``."""
        self._append("steps.csv", values)
        for name, value in values.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, values["step"])

    def log_epoch(self, values: Mapping[str, float | int]) -> None:
        """One epoch's validation; `values` has ``step`` and ``epoch``."""
        self._append("results.csv", values)
        for name, value in values.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(f"val/{name}", value, values["step"])
        self.draw_curves()

    def draw_curves(self) -> None:
        """``curves.png``: loss by step, validation loss and AP by epoch."""
        from matplotlib.figure import Figure

        steps, epochs = self._read("steps.csv"), self._read("results.csv")
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        if steps:
            losses.plot(
                [row["step"] for row in steps],
                [row["loss"] for row in steps],
                lw=0.7,
                label="train",
            )
        if epochs:
            at = [row["step"] for row in epochs]
            losses.plot(at, [row["loss"] for row in epochs], "o-", label="validation")
            for name in ("ap", "ap50"):
                scores.plot(at, [row[name] for row in epochs], "o-", label=name.upper())
            scores.legend()
        losses.set(xlabel="optimiser step", ylabel="guidance loss", title="Loss")
        losses.legend()
        scores.set(xlabel="optimiser step", ylabel="COCO AP", title="Validation")
        figure.savefig(self.path / "curves.png", dpi=120)

    def draw_pictures(self, epoch: int, rows: Sequence[PictureRow]) -> None:
        """``pictures/epoch_NNN.png``: a row a sample: classical rendering | GenISP."""
        panels = [
            (
                _picture(render_classical(row.xyz, row.exposure)[0], row),
                _picture(row.made[0], row),
            )
            for row in rows
        ]
        width = max(left.width for left, _ in panels)
        height = sum(left.height + 4 for left, _ in panels)
        sheet = Image.new("RGB", (2 * width + 4, height), "white")
        top = 0
        for left, right in panels:
            sheet.paste(left, (0, top))
            sheet.paste(right, (width + 4, top))
            top += left.height + 4
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        sheet.save(folder / f"epoch_{epoch:03}.png")

    def close(self) -> None:
        """Flush TensorBoard."""
        self._board.close()

    def _append(self, name: str, values: Mapping[str, object]) -> None:
        path = self.path / name
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(values))
            if fresh:
                writer.writeheader()
            writer.writerow(values)

    def _read(self, name: str) -> list[dict[str, float]]:
        path = self.path / name
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]


def _picture(image: Tensor, row: PictureRow) -> Image.Image:
    values = (image.detach().float().clamp(0, 1).cpu() * 255).round().to(torch.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    draw = ImageDraw.Draw(picture)
    target = row.target
    for region in target["ignore"].tolist():
        draw.rectangle(region, outline=(128, 128, 128), width=1)
    for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
        colour = _COLOURS.get(label, (255, 255, 255))
        draw.rectangle(box, outline=colour, width=2)
        draw.text((box[0] + 3, box[1] + 1), row.class_names.get(label, str(label)), fill=colour)
    return picture
