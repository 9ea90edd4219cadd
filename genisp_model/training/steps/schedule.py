"""The learning rate as a pure function of where a run is: a resumed run needs no state for it."""

from __future__ import annotations

import math

from pipeline.errors import UsageError
from schemas.training import TrainConfig


def learning_rate(config: TrainConfig, *, step: int, epoch: int, steps: int) -> float:
    """The rate of one optimiser step.

    Parameters
    ----------
    config
        ``lr`` and what changes it.
    step
        Optimiser steps done before this one.
    epoch
        The epoch it belongs to, counted from 0.
    steps
        Optimiser steps of the whole run; only the cosine needs it.

    Notes
    -----
    The warm-up multiplies the rate of step k, counted from 1, by k / ``warmup_steps``. The cosine
    is that of Loshchilov and Hutter, "SGDR" (2017), eq. 5, without restarts. It begins after the
    warm-up; a step beyond `steps` has the last rate.
    """
    rate = config.lr
    if config.lr_schedule == "step":
        rate *= config.lr_gamma ** sum(epoch >= after for after in config.lr_steps)
    elif config.lr_schedule == "cosine":
        done = step - config.warmup_steps
        left = max(1, steps - config.warmup_steps)
        angle = math.pi * min(max(done / left, 0.0), 1.0)
        rate *= config.lr_final + (1 - config.lr_final) * (1 + math.cos(angle)) / 2
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    return rate


def refuse_long_warmup(config: TrainConfig, steps: int) -> None:
    """Refuse a run that would never reach its rate.

    Raises
    ------
    UsageError
        If the warm-up is longer than the run's `steps`.
    """
    if config.warmup_steps > steps:
        raise UsageError(
            f"--warmup-steps {config.warmup_steps}: the whole run has {steps} optimiser steps",
            mend=f"at most {steps}, or more --epochs",
        )
