"""Fewer bits than float32: autocast, and in float16 a scale for the loss.

float16 ends at 65504 and has few numbers near 0. So the loss is multiplied by a scale before the
backward pass and the gradients are divided by it after. Where they overflow nevertheless, the
optimiser does not step and the scale is halved (Micikevicius et al., Mixed Precision Training,
arXiv:1710.03740, section 3.2). bfloat16 has the range of float32 and needs none of this.

torch's ``GradScaler`` does the same, but keeps scale and overflow on the device: its ``step`` reads
the overflow, and a checkpoint reads the scale. Here the host reads the gradient's norm with the
step's other numbers, so it knows of an overflow anyway, and the scale can be a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genisp_model.training.steps.step import StepResult
from pipeline.errors import TrainingError, UsageError
from schemas.choices import Amp

#: As ``GradScaler`` has them: the first scale, and steps without an overflow until it is doubled.
FIRST_SCALE = 2.0**16
GROWTH_STEPS = 2000
#: Steps in a row that may overflow. The scale is below 1 by then: it is not the cause.
MOST_OVERFLOWS = 20
_LARGEST_SCALE = 2.0**32  # gradients that are all 0 never overflow


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by, and what its next change depends on.

    Attributes
    ----------
    scale
        A power of two, so that dividing by it rounds nothing.
    good, overflows
        How many of the last steps, without a break, did not overflow since the scale was changed;
        and how many did.
    """

    scale: float = FIRST_SCALE
    good: int = 0
    overflows: int = 0

    def after(self, *, overflowed: bool) -> LossScale:
        """The one for the next step."""
        if overflowed:
            return LossScale(self.scale / 2, 0, self.overflows + 1)
        if self.good + 1 < GROWTH_STEPS:
            return LossScale(self.scale, self.good + 1)
        return LossScale(min(2 * self.scale, _LARGEST_SCALE))


class Precision:
    """The arithmetic of a run's steps.

    Parameters
    ----------
    amp
        The type that autocast computes in; None for float32 throughout.
    device
        Where the run is.

    Attributes
    ----------
    loss_scale
        None where the loss is not scaled.

    Raises
    ------
    UsageError
        If bfloat16 is asked for and the card does not have it.
    """

    def __init__(self, amp: Amp | None, device: torch.device) -> None:
        if amp == "bf16" and not has_bfloat16(device):
            message = f"--amp bf16: {device} does not compute in bfloat16"
            raise UsageError(message, mend="--amp fp16, or leave --amp out")
        self._amp = amp
        self._device = device
        self.loss_scale = LossScale() if amp == "fp16" else None

    @property
    def scale(self) -> float | None:
        """What the loss of this step is multiplied by."""
        return self.loss_scale.scale if self.loss_scale else None

    def autocast(self, *, cached: bool = True) -> AbstractContextManager[Any]:
        """The context of a forward pass; `cached`: weights are cast once in it, not at each use."""
        if self._amp is None:
            return nullcontext()
        dtype = torch.bfloat16 if self._amp == "bf16" else torch.float16
        return torch.autocast(self._device.type, dtype=dtype, cache_enabled=cached)

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass begins with."""
        return loss if self.scale is None else loss * self.scale

    def gradient_norm(self, parameters: Iterable[Tensor], largest: float) -> Tensor | None:
        """Undo the scale in the gradients, then shorten them to a norm, without a wait.

        Parameters
        ----------
        parameters
            All that the optimiser changes.
        largest
            Norm to which the gradient is shortened; 0 for no limit.

        Returns
        -------
        Tensor or None
            Euclidean norm of the whole gradient before it was shortened, a scalar on the device:
            infinite or NaN after an overflow. None where it is neither scaled nor limited.
        """
        parameters = list(parameters)
        if self.scale is not None:
            gradients = [one.grad for one in parameters if one.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scale)
        if self.scale is None and not largest:
            return None
        return nn.utils.clip_grad_norm_(parameters, largest or math.inf)

    def step(self, optimiser: torch.optim.Optimizer, result: StepResult) -> None:
        """Let the optimiser step, unless the gradients overflowed; then only the scale changes.

        Raises
        ------
        TrainingError
            If they have overflowed in every one of the last `MOST_OVERFLOWS` steps.
        """
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(overflowed=result.overflowed)
            if self.loss_scale.overflows >= MOST_OVERFLOWS:
                raise TrainingError(
                    f"the gradients overflowed float16 in {MOST_OVERFLOWS} steps in a row",
                    mend="begin a new run, into another --output-dir, without --amp fp16 or with "
                    "a lower --lr",
                )
        if not result.overflowed:
            optimiser.step()

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint needs to go on with the same scale; None where nothing is scaled."""
        return asdict(self.loss_scale) if self.loss_scale else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as `state_dict` says."""
        self.loss_scale = LossScale(**state)


def has_bfloat16(device: torch.device) -> bool:
    """Whether it computes in bfloat16 by itself: NVIDIA's cards before Ampere only imitate it."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
