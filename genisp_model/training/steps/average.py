"""A moving average of the network's weights, which jumps less than they do.

Averages of the weights of late steps score better than the last weights: Polyak and Juditsky,
"Acceleration of Stochastic Approximation by Averaging" (1992).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from genisp_model.isp import ISP

_moving: Any = get_ema_multi_avg_fn  # untyped


def decay_at(decay: float, step: int) -> float:
    """The share of the average that is kept at a step, counted from 1.

    Rising with the steps that there are to average, as TensorFlow's ``ExponentialMovingAverage``
    with ``num_updates``: (1 + step) / (10 + step), at most `decay`. With `decay` from the first
    step on, the average would be the untrained network for the first 1 / (1 - `decay`) steps.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """An exponential moving average of a network's weights, on the network's device.

    Not torch's ``AveragedModel``: it counts its updates in a tensor, which it reads in each one,
    and its decay cannot rise.

    Parameters
    ----------
    isp
        The average begins with its weights.
    decay
        Share of the average that is kept at each step, 0 to 1, see `decay_at`.
    """

    def __init__(self, isp: ISP, decay: float) -> None:
        self.decay = decay
        self.isp = deepcopy(isp).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, isp: ISP, step: int) -> None:
        """After optimiser step `step`, counted from 1; the device is not waited for.

        Buffers are copied.
        """
        weights = list(self.isp.parameters()), [one.detach() for one in isp.parameters()]
        _moving(decay_at(self.decay, step))(*weights, None)
        for ours, theirs in zip(self.isp.buffers(), isp.buffers(), strict=True):
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, on the CPU."""
        return {name: value.cpu() for name, value in self.isp.state_dict().items()}
