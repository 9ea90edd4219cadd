"""How fast a run goes, and when it will end: measured in this process, never assumed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

from schemas.training import TrainConfig

#: Steps whose mean is the rate: a run that gets slower says so soon.
_RECENT = 100


@dataclass(frozen=True)
class Ahead:
    """What a run has still to do: optimiser steps, and validations."""

    steps: int
    validations: int


def ahead(config: TrainConfig, *, step: int, epoch: int, cursor: int, batches: int) -> Ahead:
    """What is ahead of a run inside of an epoch.

    Parameters
    ----------
    config
        Of the run.
    step, epoch, cursor
        Optimiser steps done; the epoch, counted from 0; its batches that are done.
    batches
        Of a whole epoch.
    """
    an_epoch = math.ceil(batches / config.accumulate)
    of_this = math.ceil((batches - cursor) / config.accumulate)
    steps = of_this + (config.epochs - epoch - 1) * an_epoch
    last = config.epochs  # the epoch it ends in, counted from 1
    if config.limit_steps and config.limit_steps - step <= steps:
        steps = max(0, config.limit_steps - step)
        last = epoch + 1 + max(0, math.ceil((steps - of_this) / an_epoch))
    validations = 0
    if config.val_split:  # every few epochs, and in the last
        every = config.val_every
        validations = last // every - epoch // every + (last % every > 0)
    return Ahead(steps, validations)


@dataclass
class Pace:
    """Times of one process. Nothing is known of those before a resume.

    Attributes
    ----------
    validations
        Seconds of each validation.
    trained
        Seconds of all steps.
    """

    validations: list[float] = field(default_factory=list)
    trained: float = 0.0
    _steps: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _first: bool = True
    _images: int = 0
    _seconds: float = 0.0

    def stepped(self, seconds: float, images: int) -> None:
        """An optimiser step is done, waiting for its data included."""
        self.trained += seconds
        self._images += images
        self._seconds += seconds
        # The first step makes what later ones find made: it says nothing about them.
        if not self._first:
            self._steps.append(seconds)
        self._first = False

    def validated(self, seconds: float) -> None:
        """A validation is done."""
        self.validations.append(seconds)

    def images_per_second(self) -> float | None:
        """Of the steps since this was asked last; None if there were none."""
        rate = self._images / self._seconds if self._seconds > 0 else None
        self._images, self._seconds = 0, 0.0
        return rate

    def validation_share(self) -> float | None:
        """Of the time of steps and validations, 0..1; None if there was no validation."""
        validated = sum(self.validations)
        return validated / (validated + self.trained) if validated else None

    def eta(self, left: Ahead) -> str:
        """``"0:12:34"`` until the end; ``"?"`` before there is a rate.

        ``"0:12:34+"``: without the validations, of which none has been measured yet.
        """
        if left.steps and not self._steps:
            return "?"
        seconds = left.steps * fmean(self._steps) if left.steps else 0.0
        if self.validations:
            seconds += left.validations * fmean(self.validations)
        unknown = left.validations > 0 and not self.validations
        return clock(seconds) + "+" * unknown


def clock(seconds: float) -> str:
    """``"1:02:03"``; more than a day has more hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
