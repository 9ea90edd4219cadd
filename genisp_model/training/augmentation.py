"""A run's augmentation: from options to what the loader does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genisp_model.data.scale_jitter import LEAST, MOST, ScaleJitter
from genisp_model.data.sensor_augment import SensorAugment
from pipeline.errors import UsageError
from schemas.training import TrainConfig, option_of

#: Fields that change pictures in training, but for the mirroring.
_FIELDS = ("exposure_stops", "noise", "matrix_jitter", "scale_jitter")


def loader_options(config: TrainConfig) -> dict[str, Any]:
    """What `StreamLoader` is told for the pictures that are trained on."""
    return {
        "scale_jitter": ScaleJitter(*config.scale_jitter),
        "sensor": SensorAugment(config.exposure_stops, config.noise, config.matrix_jitter),
    }


def read_scales(text: str) -> tuple[float, ...]:
    """``"0.8,1.5"`` -> (0.8, 1.5); ``""`` -> ().

    Raises
    ------
    UsageError
        If they are not two scales that `ScaleJitter` takes.
    """
    parts = text.split(",") if text.strip() else []
    try:
        scales = tuple(float(part) for part in parts)
        if len(scales) not in (0, 2):
            raise ValueError
        ScaleJitter(*scales)
    except (ValueError, UsageError):
        mend = f"two scales from {LEAST} to {MOST:g}, the smaller first: --scale-jitter 0.8,1.5"
        raise UsageError(f"--scale-jitter {text!r} are not two scales", mend=mend) from None
    return scales


def refuse_with_one_batch(chosen: Mapping[str, Any]) -> None:
    """Raise `UsageError` if any of it is asked for together with ``--overfit-one-batch``."""
    asked = [option_of(name) for name in _FIELDS if chosen.get(name)]
    if asked:
        message = "--overfit-one-batch shows one batch as it is stored"
        raise UsageError(message, mend=f"leave out {' and '.join(asked)}")
