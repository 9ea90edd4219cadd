"""What the command ``train`` does: options to a config, a device, a detector, and a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genisp_model.detector.classes import read_classes
from genisp_model.detector.frozen import load_frozen_detector
from genisp_model.device import Say, choose_device
from genisp_model.recipes import RECIPES
from genisp_model.training.run_folder import RunFolder
from genisp_model.training.trainer import Trainer
from pipeline.errors import UsageError
from pipeline.runtime.interruption import Interruption
from pipeline.store import open_store
from schemas.exit_code import ExitCode
from schemas.training import TrainConfig


def train_config(options: Mapping[str, Any]) -> TrainConfig:
    """The config that options mean: what is None comes from the recipe.

    Raises
    ------
    UsageError
        If ``lr_steps`` are no numbers, or the detector's classes cannot be read.
    NoStoreError
        If there is no store.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    recipe = RECIPES[chosen["recipe"]]
    try:
        if "lr_steps" in chosen:
            text = chosen["lr_steps"].split(",")
            chosen["lr_steps"] = tuple(int(part) for part in text if part.strip())
    except ValueError:
        message = f"--lr-steps {options['lr_steps']!r} are not whole numbers"
        raise UsageError(message, mend="write epochs by comma: --lr-steps 5,10") from None
    if "detector_classes" in chosen:
        chosen["detector_classes"] = read_classes(chosen["detector_classes"])
    defaults = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "lr", "lr_steps")}
    fingerprint = open_store(chosen["store"]).recipe.fingerprint
    return TrainConfig(**defaults | chosen, store_fingerprint=fingerprint)


def run_training(options: dict[str, Any], path: Path, *, resume: bool, say: Say) -> ExitCode:
    """Train, or go on training; `ExitCode.DONE` or `ExitCode.INTERRUPTED`.

    Raises
    ------
    UsageError
        If the folder holds a run and `resume` is False, or the other way round.
    """
    device = choose_device(options.pop("device"), say)
    config = train_config(options)
    last = path / "checkpoints" / "last.pt"
    if last.exists() and not resume:
        mend = "add --resume to go on with it, or name another --output-dir"
        raise UsageError("there is a run in this folder", path=str(path), mend=mend)
    detector = load_frozen_detector(
        config.detector,
        weights=config.detector_weights,
        box_loss=config.box_loss,
        classes=config.detector_classes or None,
    )
    folder = RunFolder(path)
    interruption = Interruption()
    trainer = Trainer(
        config, detector.to(device), folder, device, say, stop=lambda: interruption.wanted
    )
    if resume and last.exists():
        trainer.resume(last)
    folder.describe(config, {"device": str(device), "detector_state": detector.state_hash()})
    try:
        with interruption.watched():
            finished = trainer.fit()
    finally:
        folder.close()
    if device.type == "cuda":
        say(f"peak GPU memory {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB")
    if not finished:
        say(f"interrupted after step {trainer.step}; the same command with --resume continues")
        return ExitCode.INTERRUPTED
    say(f"done: {trainer.step} steps; best validation loss {trainer.best:.4f}; {path}")
    return ExitCode.DONE
