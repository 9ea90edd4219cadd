"""What a training run is told, as recorded in its folder and its checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from schemas.base import StrictModel
from schemas.recipe import LevelName

TrainRecipeName = Literal["default", "paper", "report"]
BoxLoss = Literal["smooth_l1", "giou", "l1"]
Speedup = Literal[
    "fused-adam",
    "fused-detector",
    "cudnn-benchmark",
    "channels-last-isp",
    "channels-last-detector",
]

#: What may differ between a run and its continuation: how long, and where the store is now.
_FREE = frozenset({"store", "epochs", "limit_steps"})


class TrainConfig(StrictModel):
    """Every choice of a training run that can change a number it gives.

    Attributes
    ----------
    store, store_fingerprint
        The store's path, and its recipe's fingerprint.
    split, val_split
        Samples trained on, and samples scored after each epoch ("" for none).
    level
        Which array is streamed.
    recipe
        Named starting point: network start, bounds, input scaling.
    epochs, batch_size, accumulate
        The optimiser steps once every ``accumulate`` batches of ``batch_size``.
    lr, lr_steps, lr_gamma
        Adam's rate, times ``lr_gamma`` at the beginning of each epoch in ``lr_steps``.
    amp
        bfloat16 autocast.
    detector, detector_weights, box_loss
        The frozen detector that guides.
    plain_detector
        Losses by torchvision's own code also where the frozen engine knows the detector.
    gray_world
        Weight of the optional colour term.
    flip
        Probability of a horizontal flip.
    seed
        Of initialisation, order and augmentation.
    limit_steps
        Stop after this many optimiser steps; 0 for no limit.
    overfit_one_batch
        Train on the first batch again and again: the test everyone does by hand.
    checkpoint_activations
        Compute GenISP's activations again in the backward pass instead of keeping them.
    speedups
        Other ways to the same numbers, up to rounding; which of them pay depends on the device.
    """

    store: str
    store_fingerprint: str
    split: str = "train"
    val_split: str = "val"
    level: LevelName = "resized"
    recipe: TrainRecipeName = "default"
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(gt=0)
    lr_steps: tuple[int, ...] = ()
    lr_gamma: float = 0.1
    amp: bool = False
    detector: str = "retinanet_resnet50_fpn_v2"
    detector_weights: str = "COCO_V1"
    box_loss: BoxLoss = "smooth_l1"
    plain_detector: bool = False
    gray_world: float = Field(default=0.0, ge=0)
    flip: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0
    deterministic: bool = False
    limit_steps: int = Field(default=0, ge=0)
    overfit_one_batch: bool = False
    skip_damaged: bool = False
    checkpoint_activations: bool = False
    speedups: tuple[Speedup, ...] = ()

    @field_validator("speedups")
    @classmethod
    def _as_a_set(cls, speedups: tuple[Speedup, ...]) -> tuple[Speedup, ...]:
        return tuple(sorted(set(speedups)))

    def differences(self, other: TrainConfig) -> list[str]:
        """``"lr: 0.001 against 0.01"`` for every field that must be equal to continue a run."""
        ours, theirs = self.model_dump(), other.model_dump()
        return [
            f"{name}: {ours[name]} against {theirs[name]}"
            for name in ours
            if name not in _FREE and ours[name] != theirs[name]
        ]
