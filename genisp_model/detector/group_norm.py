"""A GroupNorm of a frozen network, with the ReLU behind it; on a GPU also as Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genisp_model.detector.layers import layout_of, where_alive

_aten = torch.ops.aten


class FrozenGroupNorm(nn.Module):
    """A GroupNorm, and a ReLU behind it if there is one, whose weights get no gradient.

    Statistics and arithmetic are at least float32, as under autocast on CUDA; input and output have
    the input's type. What is kept is the input in its own type, two numbers a group, and the ReLU's
    bits.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        for name in ("weight", "bias"):
            value = getattr(norm, name)
            self.register_buffer(name, None if value is None else value.detach(), persistent=False)
        self.groups, self.eps, self.relu = norm.num_groups, norm.eps, False
        self.fused = False

    def take(self, follower: nn.Module) -> bool:
        """Make a ReLU behind the norm part of it; False if it is none."""
        if self.relu:
            return False
        self.relu = isinstance(follower, nn.ReLU)
        return self.relu

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W)."""
        output: Tensor = _GroupNormalisation.apply(
            hidden, self.weight, self.bias, (self.groups, self.eps, self.relu), self.fused
        )
        return output


class _GroupNormalisation(torch.autograd.Function):
    """`settings` are groups, eps, and whether there is a ReLU."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        settings: tuple[int, float, bool],
        fused: bool,
    ) -> Tensor:
        ctx.weight, ctx.bias, ctx.settings = weight, bias, settings
        ctx.fused = fused and weight is not None and bias is not None
        if ctx.fused:
            from genisp_model.detector import kernels

            ctx.fused = kernels.takes_norm(hidden, settings[0])
        output, *kept = _norm_fused(ctx, hidden) if ctx.fused else _norm(ctx, hidden)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(hidden, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *kept = ctx.saved_tensors
        backwards = _norm_fused_backward if ctx.fused else _norm_backward
        return backwards(ctx, gradient, hidden, kept), None, None, None, None


def _norm(ctx: Any, hidden: Tensor) -> tuple[Tensor, ...]:
    """Output in the input's type; mean and 1 / deviation of each group, the ReLU's bits."""
    groups, eps, relu = ctx.settings
    batch, channels, height, width = hidden.shape
    output, mean, deviation = _aten.native_group_norm(
        *(_for_group_norm(hidden, hidden), ctx.weight, ctx.bias),
        *(batch, channels, height * width, groups, eps),
    )
    if not relu:
        return output.to(hidden.dtype), mean, deviation
    output.relu_()
    return output.to(hidden.dtype), mean, deviation, output > 0


def _norm_backward(ctx: Any, gradient: Tensor, hidden: Tensor, kept: list[Tensor]) -> Tensor:
    """Gradient towards the input, in its type."""
    mean, deviation, *lives = kept
    if lives:
        gradient = where_alive(gradient, lives[0])
    batch, channels, height, width = hidden.shape
    result: Tensor = _aten.native_group_norm_backward(
        *(_for_group_norm(gradient, hidden), _for_group_norm(hidden, hidden), mean, deviation),
        *(ctx.weight, batch, channels, height * width, ctx.settings[0], (True, False, False)),
    )[0]
    return result.to(hidden.dtype)


def _norm_fused(ctx: Any, hidden: Tensor) -> tuple[Tensor, ...]:
    from genisp_model.detector.kernels import norm_forward

    groups, eps, relu = ctx.settings
    return norm_forward(hidden, ctx.weight, ctx.bias, groups, eps, relu=relu)


def _norm_fused_backward(ctx: Any, gradient: Tensor, hidden: Tensor, kept: list[Tensor]) -> Tensor:
    from genisp_model.detector.kernels import norm_backward

    groups, _, relu = ctx.settings
    return norm_backward(gradient, hidden, ctx.weight, ctx.bias, kept[0], groups, relu=relu)


def _for_group_norm(tensor: Tensor, hidden: Tensor) -> Tensor:
    """At least float32, and in the one memory format that torch's GroupNorm takes on the device."""
    on_cpu = hidden.device.type == "cpu"
    layout = layout_of(hidden) if on_cpu else torch.contiguous_format
    wide = tensor.to(torch.promote_types(hidden.dtype, torch.float32))
    return wide.contiguous(memory_format=layout)
