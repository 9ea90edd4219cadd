"""Layers of a frozen network that keep only what the gradient towards the image needs.

Weights never change, so no gradient of theirs is asked for. A ReLU needs one bit of each number, a
max-pool where each came from. The two with weights are in `convolution` and `group_norm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


class FrozenReLU(nn.Module):
    """A ReLU that keeps a bit a number, and never writes over its input."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Any shape."""
        output: Tensor = _Rectification.apply(hidden)
        return output


class _Rectification(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        output = hidden.relu()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(output > 0)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (lives,) = ctx.saved_tensors
        return where_alive(gradient, lives)


class FrozenMaxPool2d(nn.Module):
    """A max-pool that keeps where its numbers came from, in four bytes each."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.options = (
            _pair(pool.kernel_size),
            _pair(pool.stride),
            _pair(pool.padding),
            _pair(pool.dilation),
            pool.ceil_mode,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W)."""
        output: Tensor = _MaxPool.apply(hidden, self.options)
        return output


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, options: tuple[Any, ...]) -> Tensor:
        output: Tensor
        output, sources = _aten.max_pool2d_with_indices(hidden, *options)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(sources.to(torch.int32))
        ctx.shape, ctx.options = hidden.shape, options
        ctx.layout = layout_of(hidden)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (sources,) = ctx.saved_tensors
        # Its shape and memory format are looked at, its numbers are not.
        like_input = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout
        )
        result: Tensor = _aten.max_pool2d_with_indices_backward(
            gradient, like_input, *ctx.options, sources.long()
        )
        return result, None


def where_alive(gradient: Tensor, lives: Tensor) -> Tensor:
    """The gradient behind a ReLU: zero where its output was."""
    if gradient.is_cuda:  # the one kernel of torch that reads bits as they are, at full speed
        scaled: Tensor = _aten.native_dropout_backward(gradient, lives, 1.0)
        return scaled
    return torch.where(lives, gradient, 0.0)


def layout_of(hidden: Tensor) -> torch.memory_format:
    """The memory format of (B, C, H, W), for what is to be made like it."""
    last = hidden.is_contiguous(memory_format=torch.channels_last) and not hidden.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
