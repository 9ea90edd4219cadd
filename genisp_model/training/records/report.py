"""What a run tells: rows of its tables, and lines for the user."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from genisp_model.evaluation.scores import Evaluation
from genisp_model.training.steps.step import Range, StepResult

#: A gain or matrix entry beyond this is called diverging (docs/reference/learning.md).
RUNAWAY = 20.0

#: Columns that a line may take.
_WIDTH = 120

Row = dict[str, float | int]


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes
    ----------
    step, epoch
        Counted from 1.
    steps, epochs
        Of the whole run.
    result
        Its numbers.
    rate
        The learning rate it was made with.
    seconds, data_seconds
        What it took, and how much of that was waiting for data.
    eta
        How long the run will still take, as text.
    memory
        Bytes at the peak; None where it is not known.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    result: StepResult
    rate: float
    seconds: float
    data_seconds: float
    eta: str = "?"
    memory: int | None = None

    def row(self) -> Row:
        """As a row of ``steps.csv``."""
        norm = self.result.gradient_norm
        return {
            "step": self.step,
            "epoch": self.epoch,
            "loss": self.result.loss,
            **self.result.parts,
            "lr": self.rate,
            **({} if norm is None else {"gradient_norm": norm}),
            **_scaling(self.result),
            **_columns("gain", self.result.gain_range),
            **_columns("matrix", self.result.matrix_range),
            "seconds": self.seconds,
            "data_seconds": self.data_seconds,
        }

    def lines(self) -> list[str]:
        """For the user: the step, whether it was skipped, and a warning if its numbers diverge."""
        norm = self.result.gradient_norm
        line = (
            f"epoch {self.epoch}/{self.epochs}  step {self.step}/{self.steps}  "
            f"loss {self.result.loss:.4f}  ETA {self.eta}  "
            f"time {self.seconds:.3f}  data {self.data_seconds:.3f}  lr {self.rate:.3g}"
        )
        line += "" if norm is None else f"  norm {norm:.3g}"
        line += "" if self.memory is None else f"  {_gigabytes(self.memory)}"
        line = line if len(line) <= _WIDTH else line.replace("  ", " ")
        return [line, *self._skipped(), *_divergence(self.result)]

    def _skipped(self) -> list[str]:
        scale = self.result.loss_scale
        if scale is None or not self.result.overflowed:
            return []
        change = f"the loss scale falls from {scale:g} to {scale / 2:g}"
        return [f"step {self.step} skipped: its gradients overflow float16; {change}"]


@dataclass(frozen=True)
class EpochReport:
    """An epoch's training losses, and its scores.

    Attributes
    ----------
    step, epoch, epochs
        The last step; the epoch, counted from 1, of how many.
    losses
        Of the epoch's optimiser steps; empty if it had none.
    images_per_second
        Of the steps of this process; None if there were none.
    """

    step: int
    epoch: int
    epochs: int
    losses: Sequence[float]
    images_per_second: float | None = None

    @property
    def mean(self) -> float:
        """Of the losses; NaN if there are none."""
        return statistics.fmean(self.losses) if self.losses else math.nan

    @property
    def deviation(self) -> float:
        """The losses' standard deviation (divided by their number); NaN if there are none."""
        return statistics.pstdev(self.losses) if self.losses else math.nan

    def row(self, scores: Evaluation) -> Row:
        """As a row of ``results.csv``."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "train_loss": self.mean,
            "train_loss_std": self.deviation,
            "loss": scores.loss,
            "ap": scores.ap,
            "ap50": scores.ap50,
            "ap75": scores.ap75,
            **{f"ap_{name}": value for name, value in scores.ap_by_class.items()},
        }

    def training_line(self) -> str:
        """For the user, at the end of the epoch."""
        line = (
            f"epoch {self.epoch}/{self.epochs}: training loss {self.mean:.4f}, standard deviation "
            f"{self.deviation:.4f} over {len(self.losses)} steps"
        )
        rate = self.images_per_second
        return line if rate is None else f"{line}, {rate:.2f} images/s"

    def validation_line(self, scores: Evaluation) -> str:
        """For the user, after a validation."""
        return (
            f"validation after epoch {self.epoch}: loss {scores.loss:.4f}  AP {scores.ap:.3f}  "
            f"AP50 {scores.ap50:.3f}"
        )


def _columns(name: str, found: Range | None) -> Row:
    """A range as two columns of ``steps.csv``; none where an ISP has no such numbers."""
    return {f"{name}_min": found[0], f"{name}_max": found[1]} if found else {}


def _scaling(result: StepResult) -> Row:
    """Two columns of ``steps.csv`` where the loss is scaled."""
    if result.loss_scale is None:
        return {}
    return {"loss_scale": result.loss_scale, "skipped": int(result.overflowed)}


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.{2 if size < 10e9 else 1}f} GB"


def _divergence(result: StepResult) -> list[str]:
    ranges = {"gains": result.gain_range, "matrix": result.matrix_range}
    numbers = (*(result.gain_range or ()), *(result.matrix_range or ()))
    negative = result.gain_range is not None and result.gain_range[0] < 0
    if not negative and all(abs(number) <= RUNAWAY for number in numbers):
        return []
    described = ", ".join(
        f"{name} {found[0]:.3g} to {found[1]:.3g}" for name, found in ranges.items() if found
    )
    return [f"warning: diverging: {described}; --recipe default bounds both"]
