"""The three named ways to train: ours, the paper's, and the reproduction report's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from genisp_model.isp import ISP, GenISP, GenISPConfig
from schemas.training import BoxLoss, TrainRecipeName


@dataclass(frozen=True)
class TrainRecipe:
    """What a recipe decides unless an option says otherwise; see `schemas.training.TrainConfig`.

    Attributes
    ----------
    make_isp
        The network as it starts; its random weights come from torch's global generator. A
        checkpoint holds the recipe's name and is read into a network made by this.
    """

    make_isp: Callable[[], ISP]
    epochs: int
    batch_size: int
    lr: float
    lr_steps: tuple[int, ...]
    flip: float
    seed: int
    box_loss: BoxLoss


def _as_published() -> GenISP:
    return GenISP(GenISPConfig.paper())


RECIPES: dict[TrainRecipeName, TrainRecipe] = {
    # A sane picture before the first step, bounded gains and matrix, a rate that keeps them sane.
    "default": TrainRecipe(
        GenISP,
        epochs=15,
        batch_size=8,
        lr=1e-3,
        lr_steps=(5, 10),
        flip=0.5,
        seed=0,
        box_loss="smooth_l1",
    ),
    # Literally as published: it runs away (docs/reference/learning.md). No augmentation is known.
    "paper": TrainRecipe(
        _as_published,
        epochs=15,
        batch_size=8,
        lr=1e-2,
        lr_steps=(5, 10),
        flip=0.0,
        seed=0,
        box_loss="smooth_l1",
    ),
    # Meijer, Uno and Sterns: batch 2, constant rate, 200 epochs, and the box loss that their
    # detector, retinanet_resnet50_fpn_v2, has in torchvision.
    "report": TrainRecipe(
        _as_published,
        epochs=200,
        batch_size=2,
        lr=1e-2,
        lr_steps=(),
        flip=0.0,
        seed=42,
        box_loss="giou",
    ),
}
