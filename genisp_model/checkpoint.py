"""Checkpoints: one dictionary with everything a run needs to go on as if it had never stopped.

Loaded with ``weights_only=True`` only: a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genisp_model.isp import ISP
from genisp_model.recipes import RECIPES
from pipeline.errors import TrainingError
from schemas.training import TrainConfig

CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after some number of optimiser steps.

    Attributes
    ----------
    config
        What the run was told.
    step, epoch
        Optimiser steps done; the epoch they led into.
    isp, optimiser
        State dictionaries.
    loader
        `StreamLoader.state_dict()`.
    rng
        torch's generator on the CPU.
    best
        Lowest validation loss so far, infinity before the first.
    """

    config: TrainConfig
    step: int
    epoch: int
    isp: dict[str, Tensor]
    optimiser: dict[str, Any]
    loader: dict[str, Any]
    rng: Tensor
    best: float

    def save(self, path: Path) -> None:
        """Write durably: the old checkpoint stays until the new one is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {"version": CHECKPOINT_VERSION, "config": self.config.model_dump_json()}
        with temporary.open("wb") as file:
            torch.save(fields, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    TrainingError
        If it is missing, damaged, holds code, or was written by another version.
    """
    mend = "name a run folder's checkpoints/last.pt or best.pt written by this version"
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        if fields.pop("version") != CHECKPOINT_VERSION:
            raise TrainingError("another checkpoint version", path=str(path), mend=mend)
        config = TrainConfig.model_validate_json(fields.pop("config"))
        return Checkpoint(config=config, **fields)
    except FileNotFoundError as error:
        raise TrainingError("there is no checkpoint here", path=str(path), mend=mend) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, TrainingError):
            raise
        message = f"not one of our checkpoints, or damaged ({type(error).__name__})"
        raise TrainingError(message, path=str(path), mend=mend) from error
    except pickle.UnpicklingError as error:
        raise TrainingError("not a checkpoint of tensors", path=str(path), mend=mend) from error


def load_isp(path: Path) -> tuple[ISP, TrainConfig]:
    """The trained network of a checkpoint, in evaluation mode.

    Raises
    ------
    TrainingError
        As `load_checkpoint`, or if its weights are another architecture's.
    """
    checkpoint = load_checkpoint(path)
    isp = RECIPES[checkpoint.config.recipe].make_isp()
    try:
        isp.load_state_dict(checkpoint.isp)
    except RuntimeError as error:
        mend = "use the version of this tool that wrote it"
        message = "its weights are another architecture's"
        raise TrainingError(message, path=str(path), mend=mend) from error
    return isp.eval(), checkpoint.config
