"""A convolution of a frozen network: it keeps no input, since its weights get no gradient.

A BatchNorm behind it, in evaluation mode, becomes part of its weights. Of a ReLU behind it one bit
a number is kept.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from genisp_model.detector.layers import where_alive

_aten = torch.ops.aten

Pair = tuple[int, int]


class FrozenConv2d(nn.Module):
    """A convolution, with what follows it up to a ReLU, whose weights get no gradient.

    Parameters
    ----------
    convolution
        Taken over; weights are shared until a norm is folded into them.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", convolution.weight.detach(), persistent=False)
        bias = None if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("bias", bias, persistent=False)
        self.geometry = _Geometry(convolution)
        self.relu = False
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}

    def take(self, follower: nn.Module) -> bool:
        """Make a BatchNorm or a ReLU behind the convolution part of it; False if it is neither."""
        if self.relu:
            return False
        if isinstance(follower, nn.BatchNorm2d | FrozenBatchNorm2d):
            self._fold(follower)
            return True
        self.relu = isinstance(follower, nn.ReLU)
        return self.relu

    @torch.no_grad()
    def _fold(self, norm: Any) -> None:
        """weight * s, bias * s + shift, in float64, rounded once."""
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        scale = (variance + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        bias = -mean * scale if self.bias is None else (self.bias.double() - mean) * scale
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        # Strides to the letter: those of a 1x1 kernel fit both memory formats, and say which it is.
        folded = torch.empty_like(self.weight)
        folded.copy_(self.weight.double() * scale[:, None, None, None])
        self.weight, self.bias = folded, bias.to(folded.dtype)

    def forward(self, hidden: Tensor, added: Tensor | None = None) -> Tensor:
        """relu(convolution + `added`), without what is not there.

        Parameters
        ----------
        hidden
            (B, C, H, W).
        added
            Of the output's shape; a shortcut around the layer.
        """
        dtype = _computed_in(hidden)
        weight, bias = self._weights(dtype)
        hidden = hidden.to(dtype)
        output: Tensor = _Convolution.apply(hidden, weight, bias, added, self.geometry, self.relu)
        return output

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if dtype == self.weight.dtype:
            return self.weight, self.bias
        if dtype not in self._cast:  # they never change: cast once, not each time
            bias = None if self.bias is None else self.bias.to(dtype)
            self._cast[dtype] = self.weight.to(dtype), bias
        return self._cast[dtype]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._cast = {}
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class _Geometry:
    """How a convolution's kernel moves; `fused` leaves bias, sum and ReLU to cuDNN."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.stride = cast(Pair, convolution.stride)
        self.padding = cast(Pair, convolution.padding)
        self.dilation = cast(Pair, convolution.dilation)
        self.groups = convolution.groups
        self.fused = False


class _Convolution(torch.autograd.Function):
    """Keeps the sign of the output where there is a ReLU, and nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        added: Tensor | None,
        geometry: _Geometry,
        relu: bool,
    ) -> Tensor:
        if relu and geometry.fused and hidden.is_cuda and hidden.dtype != torch.float64:
            output = _by_cudnn(hidden, weight, bias, added, geometry)
        else:
            way = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
            output = functional.conv2d(hidden, weight, bias, *way)
            if added is not None:
                output += added
            if relu:
                output.relu_()
        if relu and any(ctx.needs_input_grad):
            ctx.save_for_backward(output > 0)
        # No tensors of the graph: the weights belong to the network and do not change.
        ctx.weight, ctx.shape, ctx.geometry, ctx.relu = weight, hidden.shape, geometry, relu
        ctx.added_dtype = None if added is None else added.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.relu:
            (lives,) = ctx.saved_tensors
            gradient = where_alive(gradient, lives)
        towards_input, towards_added = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        hidden = None
        if towards_input:
            hidden = _transposed(gradient, ctx.weight, ctx.shape, ctx.geometry)
        added = gradient.to(ctx.added_dtype) if towards_added else None
        return hidden, None, None, added, None, None


def _by_cudnn(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, geometry: _Geometry
) -> Tensor:
    way = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    output: Tensor
    if added is None:
        output = _aten.cudnn_convolution_relu(hidden, weight, bias, *way)
    else:
        output = _aten.cudnn_convolution_add_relu(hidden, weight, added, 1.0, bias, *way)
    return output


def _transposed(gradient: Tensor, weight: Tensor, shape: torch.Size, geometry: _Geometry) -> Tensor:
    """The gradient towards an input of a shape, as the transposed convolution it is.

    ``convolution_backward`` wants the input, which is not kept, and first brings it (on CUDA: the
    gradient) into a memory format of its own, although it looks at the input's shape only. On CUDA
    that took a quarter of a step, on the CPU up to half the time of a convolution with stride 2.
    """
    kernel = weight.shape[2:]
    spare = [
        shape[2 + axis]
        - (
            (gradient.shape[2 + axis] - 1) * geometry.stride[axis]
            - 2 * geometry.padding[axis]
            + geometry.dilation[axis] * (kernel[axis] - 1)
            + 1
        )
        for axis in (0, 1)
    ]
    way = (geometry.stride, geometry.padding, spare, geometry.groups, geometry.dilation)
    return functional.conv_transpose2d(gradient, weight, None, *way)


def _computed_in(hidden: Tensor) -> torch.dtype:
    """The type that a convolution of this input is computed in: autocast's, where it is on."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or hidden.dtype == torch.float64:
        return hidden.dtype
    return torch.get_autocast_dtype(device)
