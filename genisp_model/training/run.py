"""What the command ``train`` does: options to a config, a device, a detector, and a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from genisp_model.checkpoint import Checkpoint, load_checkpoint
from genisp_model.detector.classes import named_classes, read_classes
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector, only_box_loss
from genisp_model.device import Say, choose_device, keep_freed_memory, memory_errors
from genisp_model.recipes import RECIPES
from genisp_model.training.augmentation import read_scales, refuse_with_one_batch
from genisp_model.training.memory import set_up_mend
from genisp_model.training.records.environment import environment
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.start import describe_frozen, freeze, initial_network
from genisp_model.training.steps.speedups import device_facts, with_known
from genisp_model.training.trainer import Trainer
from pipeline.errors import NoStoreError, UsageError
from pipeline.runtime.interruption import Interruption
from pipeline.store import open_store
from schemas.choices import AUTO, DEFAULT_DETECTOR
from schemas.exit_code import ExitCode
from schemas.training import TrainConfig, option_of

#: What a recipe decides unless an option says otherwise.
_OF_RECIPE = ("epochs", "batch_size", "lr", "lr_steps", "flip", "seed", "box_loss")


def train_config(options: Mapping[str, Any]) -> TrainConfig:
    """The config that options mean: what is None comes from the recipe.

    The box loss is the detector's own where that leaves no choice. One batch is overfitted without
    mirroring.

    Raises
    ------
    UsageError
        If an option is out of its range, two contradict each other, or the detector's classes
        cannot be read.
    NoStoreError
        If there is no store.
    """
    chosen = _chosen(options)
    recipe = RECIPES[chosen["recipe"]]
    defaults = {name: getattr(recipe, name) for name in _OF_RECIPE}
    own = only_box_loss(chosen.get("detector", DEFAULT_DETECTOR))
    if own is not None:
        defaults["box_loss"] = own
    if chosen.get("overfit_one_batch"):
        if chosen.get("flip"):
            message = "--overfit-one-batch shows one batch again and again, --flip mirrors it"
            raise UsageError(message, mend="leave one of them out")
        refuse_with_one_batch(chosen)
        defaults["flip"] = 0.0
    schedule = chosen.get("lr_schedule", "step")
    if schedule != "step":
        if chosen.get("lr_steps"):
            message = f"--lr-steps are of the schedule step, --lr-schedule is {schedule}"
            raise UsageError(message, mend="leave one of them out")
        defaults["lr_steps"] = ()
    fingerprint = open_store(chosen["store"]).recipe.fingerprint
    return _validated(defaults | chosen | {"store_fingerprint": fingerprint})


def continued_config(saved: Checkpoint, options: Mapping[str, Any]) -> TrainConfig:
    """The config to go on with: the checkpoint's, but for the options that are given now.

    A step limit that the run has reached already is lifted. Whether an option may differ is
    `TrainConfig.differences`'s to say.

    Raises
    ------
    UsageError
        If an option is out of its range, or the detector's classes cannot be read.
    NoStoreError
        If there is no store.
    """
    fields = saved.config.model_dump()
    if saved.step >= saved.config.limit_steps:
        fields["limit_steps"] = 0
    fields |= _chosen(options)
    try:
        fingerprint = open_store(fields["store"]).recipe.fingerprint
    except NoStoreError as error:
        if "store" in options:
            raise
        mend = "say where the store of this run is now: --store"
        raise NoStoreError(error.message, path=error.path, mend=mend) from error
    return _validated(fields | {"store_fingerprint": fingerprint})


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, as the config has them."""
    chosen = {name: value for name, value in options.items() if value is not None}
    if "detector_classes" in chosen:
        classes = chosen["detector_classes"]
        named = isinstance(classes, Mapping)
        chosen["detector_classes"] = named_classes(classes) if named else read_classes(classes)
    if "lr_steps" in chosen:
        chosen["lr_steps"] = _lr_steps(chosen["lr_steps"])
    if "speedups" in chosen:  # which those are depends on the device: `run_training` adds them
        chosen["speedups"] = tuple(name for name in chosen["speedups"] if name != AUTO)
    if "scale_jitter" in chosen:
        chosen["scale_jitter"] = read_scales(chosen["scale_jitter"])
    return chosen


def _validated(fields: Mapping[str, Any]) -> TrainConfig:
    try:
        config = TrainConfig(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = option_of(str(first["loc"][0]))
        message = f"{option} {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise UsageError(message, mend="genisp train --help names the ranges") from error
    if config.patience and not config.val_split:
        message = f"--patience {config.patience} counts validations, and there are none"
        raise UsageError(message, mend="leave it out, or name a --val-split")
    parts = freeze(RECIPES[config.recipe].make_isp(), config.freeze) if config.freeze else ()
    return config.model_copy(update={"freeze": parts})


def _lr_steps(text: str) -> tuple[int, ...]:
    """``"5,10"`` -> (5, 10); ``""`` -> ()."""
    parts = text.split(",") if text.strip() else []
    mend = "write epochs by comma, counted from 1 and rising: --lr-steps 5,10"
    try:
        steps = tuple(int(part) for part in parts)
    except ValueError:
        raise UsageError(f"--lr-steps {text!r} are not whole numbers", mend=mend) from None
    if any(later <= earlier for earlier, later in pairwise((0, *steps))):
        raise UsageError(f"--lr-steps {text!r} do not rise from 1", mend=mend)
    return steps


def _detector(config: TrainConfig, device: torch.device) -> FrozenDetector:
    """The frozen detector, on its device."""
    detector = load_frozen_detector(
        config.detector,
        weights=config.detector_weights,
        box_loss=config.box_loss,
        classes=config.detector_classes or None,
    )
    with memory_errors(device, "for the detector", mend=set_up_mend(config)):
        return detector.to(device)


def run_training(
    options: dict[str, Any],
    path: Path,
    *,
    resume: bool,
    given: Collection[str] = (),
    accept_changes: bool = False,
    say: Say,
) -> ExitCode:
    """Train, or go on training; `ExitCode.DONE` or `ExitCode.INTERRUPTED`.

    To go on, only those of `options` count that are named in `given`: the user's own, not defaults.

    Raises
    ------
    UsageError
        If the folder holds a run and `resume` is False, or the other way round.
    RunLockedError
        If another process trains into the folder.
    """
    device = choose_device(options.pop("device"), say)
    if device.type == "cpu":
        keep_freed_memory()
    last = path / "checkpoints" / "last.pt"
    saved = _saved(path) if resume else None
    if saved is not None:
        options = {name: options[name] for name in options if name in given}
    config = train_config(options) if saved is None else continued_config(saved, options)
    initial = None if resume else initial_network(config)  # refused before anything is loaded
    torch.manual_seed(config.seed)  # random weights are the same when the run is continued
    detector = _detector(config, device)
    if AUTO in options.get("speedups", ()):
        config = with_known(config, device_facts(config, detector, device), say)
    folder = RunFolder(path)
    with folder.only_writer():
        if last.exists() and not resume:
            mend = "add --resume to go on with it, or name another --output-dir"
            raise UsageError("there is a run in this folder", path=str(path), mend=mend)
        interruption = Interruption()
        trainer = Trainer(config, detector, folder, device, say, stop=lambda: interruption.wanted)
        _begin(trainer, saved, last, accept_changes=accept_changes)
        facts = {"init_from": initial.facts()} if initial else {}
        folder.describe(
            config,
            environment(device) | {"detector_state": detector.state_hash()} | facts,
            resumed_after=trainer.step if resume else None,
        )
        try:
            with interruption.watched():
                finished = trainer.fit()
        finally:
            folder.close()
    if device.type == "cuda":
        say(f"peak GPU memory {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB")
    if not finished:
        say(f"interrupted after step {trainer.step}; train --resume --output-dir {path} continues")
        return ExitCode.INTERRUPTED
    _say_end(trainer, say)
    return ExitCode.DONE


def _saved(path: Path) -> Checkpoint:
    """The checkpoint to go on from."""
    last = path / "checkpoints" / "last.pt"
    if not last.exists():
        mend = "name the run's --output-dir; leave --resume out where nothing was saved yet"
        raise UsageError("there is no run to continue here", path=str(path), mend=mend)
    return load_checkpoint(last)


def _begin(trainer: Trainer, saved: Checkpoint | None, last: Path, *, accept_changes: bool) -> None:
    """Begin the run, or go on from its last checkpoint; say what differs and is not trained."""
    if saved is None:
        trainer.begin()
    else:
        trainer.resume(last, accept_changes=accept_changes)
        if changes := saved.config.free_differences(trainer.config):
            trainer.say("changed from here on: " + "; ".join(changes))
    if trainer.frozen_parts:
        trainer.say(describe_frozen(trainer.isp, trainer.frozen_parts))


def _say_end(trainer: Trainer, say: Say) -> None:
    """Why there, and what came of it."""
    best = trainer.best_so_far
    if best.is_exhausted and trainer.loader.epoch < trainer.config.epochs:
        say(best.why_stopped())
    share = trainer.pace.validation_share()
    took = "" if share is None else f"validation took {share:.0%} of the time"
    facts = (f"done: {trainer.step} steps", took, str(best), str(trainer.folder.path))
    say("; ".join(fact for fact in facts if fact))
