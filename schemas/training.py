"""What a training run is told, as recorded in its folder and its checkpoints."""

from __future__ import annotations

from pydantic import Field, field_validator

from schemas.base import StrictModel
from schemas.choices import (
    DEFAULT_BEST_BY,
    DEFAULT_BOX_LOSS,
    DEFAULT_DETECTOR,
    DEFAULT_DETECTOR_WEIGHTS,
    DEFAULT_LEVEL,
    DEFAULT_SCHEDULE,
    DEFAULT_TRAIN_RECIPE,
    DEFAULT_TRAIN_SPLIT,
    DEFAULT_VAL_SPLIT,
    Amp,
    BestBy,
    BoxLoss,
    LevelName,
    Schedule,
    Speedup,
    TrainRecipeName,
)

__all__ = ["BoxLoss", "Speedup", "TrainConfig", "TrainRecipeName"]

#: What may differ between a run and its continuation: how long it goes on, where the store is now,
#: and other ways to the same numbers up to rounding. A field that is not named here may not.
FREE_ON_RESUME = frozenset(
    {
        "store",
        "epochs",
        "limit_steps",
        "patience",
        "plain_detector",
        "checkpoint_activations",
        "speedups",
    }
)

#: Fields whose options are not called like them, or that have none.
_OPTIONS = {
    "speedups": "--speedup",
    "store_fingerprint": "the recipe of the store",
    "lr_gamma": "lr_gamma",
}

#: More than anybody counts to; what counts takes no more than a machine's word.
_MANY = 10**12


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
    init_from
        Checkpoint of another run whose network this one begins with; "" for the recipe's.
    freeze
        Parts of the network that are not trained, by module name.
    epochs, batch_size, accumulate
        The optimiser steps once every ``accumulate`` batches of ``batch_size``.
    lr, lr_steps, lr_gamma
        Adam's rate, times ``lr_gamma`` after each epoch in ``lr_steps`` (counted from 1).
    lr_schedule, lr_final
        ``step``: by ``lr_steps``; ``constant``; ``cosine``: falling over all optimiser steps of
        the run to ``lr_final`` times the rate.
    warmup_steps
        Optimiser steps over which the rate rises to its value; 0 for none.
    clip_grad
        Largest Euclidean norm of the gradient of a step; 0 for no limit.
    val_every
        Epochs between validations; the last one is always validated.
    val_limit
        At most this many samples of ``val_split``, at even distances; 0 for all.
    best_by
        Which score of a validation ``best.pt`` follows.
    patience
        The run ends after this many validations in a row without a better score; 0 for never.
    ema
        Decay of a moving average of the weights, which is validated and kept beside them; 0 for
        none.
    amp
        Autocast in bfloat16, or in float16 with a scaled loss; None: neither. Earlier versions
        wrote true for bfloat16.
    detector, detector_weights, box_loss
        The frozen detector that guides.
    detector_classes
        Label -> name of what it finds, where its own names are not meant.
    plain_detector
        Losses by torchvision's own code also where the frozen engine knows the detector.
    gray_world
        Weight of the optional colour term.
    flip
        Probability of a horizontal flip.
    exposure_stops, noise, matrix_jitter
        Other exposures, more noise and other colours in training, see docs/reference/training.md;
        0 for none.
    scale_jitter
        Smallest and largest scale of a random part of a picture in training; () for none.
    seed
        Of initialisation, order and augmentation.
    limit_steps
        Stop after this many optimiser steps; 0 for no limit.
    overfit_one_batch
        Train on the first batch again and again, unmirrored, and score on it: the test everyone
        does by hand.
    checkpoint_activations
        Compute GenISP's activations again in the backward pass instead of keeping them.
    speedups
        Other ways to the same numbers, up to rounding; which of them pay depends on the device.
    """

    store: str
    store_fingerprint: str
    split: str = DEFAULT_TRAIN_SPLIT
    val_split: str = DEFAULT_VAL_SPLIT
    level: LevelName = DEFAULT_LEVEL
    recipe: TrainRecipeName = DEFAULT_TRAIN_RECIPE
    init_from: str = ""
    freeze: tuple[str, ...] = ()
    epochs: int = Field(ge=1, le=_MANY)
    batch_size: int = Field(ge=1, le=_MANY)
    accumulate: int = Field(default=1, ge=1, le=_MANY)
    lr: float = Field(gt=0)
    lr_steps: tuple[int, ...] = ()
    lr_gamma: float = 0.1
    lr_schedule: Schedule = DEFAULT_SCHEDULE
    lr_final: float = Field(default=0.01, ge=0, le=1)
    warmup_steps: int = Field(default=0, ge=0, le=_MANY)
    clip_grad: float = Field(default=0.0, ge=0)
    val_every: int = Field(default=1, ge=1, le=_MANY)
    val_limit: int = Field(default=0, ge=0, le=_MANY)
    best_by: BestBy = DEFAULT_BEST_BY
    patience: int = Field(default=0, ge=0, le=_MANY)
    ema: float = Field(default=0.0, ge=0, lt=1)
    amp: Amp | None = None
    detector: str = DEFAULT_DETECTOR
    detector_weights: str = DEFAULT_DETECTOR_WEIGHTS
    box_loss: BoxLoss = DEFAULT_BOX_LOSS
    detector_classes: dict[int, str] = Field(default_factory=dict)
    plain_detector: bool = False
    gray_world: float = Field(default=0.0, ge=0)
    flip: float = Field(default=0.0, ge=0, le=1)
    exposure_stops: float = Field(default=0.0, ge=0, le=16)
    noise: float = Field(default=0.0, ge=0, le=1)
    matrix_jitter: float = Field(default=0.0, ge=0, le=2)
    scale_jitter: tuple[float, float] | tuple[()] = ()
    seed: int = Field(default=0, ge=-(1 << 63), lt=1 << 63)
    deterministic: bool = False
    limit_steps: int = Field(default=0, ge=0, le=_MANY)
    overfit_one_batch: bool = False
    skip_damaged: bool = False
    checkpoint_activations: bool = False
    speedups: tuple[Speedup, ...] = ()

    @field_validator("amp", mode="before")
    @classmethod
    def _of_earlier_versions(cls, amp: object) -> object:
        return ("bf16" if amp else None) if isinstance(amp, bool) else amp

    @field_validator("speedups", "freeze")
    @classmethod
    def _as_a_set(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(names)))

    def differences(self, other: TrainConfig) -> list[str]:
        """``"--lr: 0.001 against 0.01"`` for every field that must be equal to continue a run."""
        return [text for name, text in self._all_differences(other) if name not in FREE_ON_RESUME]

    def free_differences(self, other: TrainConfig) -> list[str]:
        """The same for every field that may differ."""
        return [text for name, text in self._all_differences(other) if name in FREE_ON_RESUME]

    def _all_differences(self, other: TrainConfig) -> list[tuple[str, str]]:
        pairs = {
            name: (getattr(self, name), getattr(other, name)) for name in type(self).model_fields
        }
        return [
            (name, f"{option_of(name)}: {_shown(ours)} against {_shown(theirs)}")
            for name, (ours, theirs) in pairs.items()
            if ours != theirs
        ]


def option_of(name: str) -> str:
    """``"--batch-size"`` for ``"batch_size"``: how the command line calls a field."""
    return _OPTIONS.get(name, "--" + name.replace("_", "-"))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else "''" if value == "" else str(value)
