"""What the command ``train`` does: options to a config, a device, a detector, and a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genisp_model.comparison import Pictures, compare
from genisp_model.data import StoreDataset
from genisp_model.detector import load_frozen_detector
from genisp_model.frozen_engine import guide_by
from genisp_model.recipes import RECIPES
from genisp_model.runlog import RunFolder
from genisp_model.train import Say, Trainer
from pipeline.errors import UsageError
from pipeline.runtime.interruption import Interruption
from pipeline.store import open_store
from schemas.exit_code import ExitCode
from schemas.info import RenderingScore
from schemas.training import TrainConfig


def train_config(options: Mapping[str, Any]) -> TrainConfig:
    """The config that options mean: what is None comes from the recipe.

    Raises
    ------
    UsageError
        If ``lr_steps`` are no numbers.
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
    defaults = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "lr", "lr_steps")}
    fingerprint = open_store(chosen["store"]).recipe.fingerprint
    return TrainConfig(**defaults | chosen, store_fingerprint=fingerprint)


def choose_device(name: str, say: Say) -> torch.device:
    """The device asked for; ``"auto"`` says which it took."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise UsageError(f"--device {name!r} is no device", mend="cpu, cuda, cuda:1") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("there is no CUDA device", mend="use --device cpu, or auto")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    say("no CUDA device: running on the CPU")
    return torch.device("cpu")


def run_evaluation(
    options: Mapping[str, Any],
    checkpoint: Path | None,
    say: Say,
    pictures: Pictures | None = None,
) -> list[RenderingScore]:
    """Score every rendering of a split under a frozen detector.

    `pictures` gives the camera's default rendering by sample id; None leaves that one out.

    Raises
    ------
    UsageError, NoStoreError, TrainingError
        If the split, the store or the checkpoint is not there.
    """
    device = choose_device(options["device"], say)
    detector = load_frozen_detector(
        options["detector"], weights=options["detector_weights"], box_loss=options["box_loss"]
    ).to(device)
    dataset = StoreDataset(options["store"], split=options["split"], level=options["level"])
    guide = guide_by(detector, plain=bool(options.get("plain_detector")))
    by_condition = bool(options.get("by_condition"))
    found = compare(
        dataset, guide, checkpoint, device, pictures=pictures, by_condition=by_condition
    )
    scores = [score for score, _ in found]
    if by_condition and not any(score.condition for score in scores):
        say("these images carry no flags that differ, and are of one ISO bin: no conditions")
    return scores


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
        config.detector, weights=config.detector_weights, box_loss=config.box_loss
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
