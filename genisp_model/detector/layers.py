"""Layers of a frozen network that keep only what the gradient towards the image needs.

Weights never change, so no gradient of theirs is asked for: a convolution need not keep its input,
a ReLU needs one bit of each number, and a BatchNorm in evaluation mode is part of the convolution
before it. `frozen_network` rebuilds a torchvision network of such layers; forward and backward
compute the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

_aten = torch.ops.aten

Pair = tuple[int, int]


def frozen_network(module: nn.Module) -> nn.Module:
    """The same network with layers of this module wherever there is one for what it does.

    Parameters
    ----------
    module
        A network in evaluation mode. It is left as it is; what is not folded is shared with it, not
        copied.

    Returns
    -------
    nn.Module
        Same inputs, outputs and hooks. Layers it knows nothing of are as they were.
    """
    if isinstance(module, Bottleneck | BasicBlock):
        return _ResidualBlock(module)
    if isinstance(module, nn.Conv2d) and _is_plain(module):
        return FrozenConv2d(module)
    if isinstance(module, nn.GroupNorm):
        return FrozenGroupNorm(module)
    if isinstance(module, nn.ReLU):
        return FrozenReLU()
    if isinstance(module, nn.MaxPool2d) and not module.return_indices:
        return FrozenMaxPool2d(module)
    twin = copy.copy(module)
    children = list(module.named_children())
    if _is_chain(module):
        children = _joined(children)
    twin.__dict__["_modules"] = {
        name: child if isinstance(child, _JOINED) else frozen_network(child)
        for name, child in children
    }
    return twin


def _is_plain(convolution: nn.Conv2d) -> bool:
    zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return zeros and type(convolution).forward is nn.Conv2d.forward


def _is_chain(module: nn.Module) -> bool:
    """Whether each child's output is the next one's input and nothing else reads it."""
    if isinstance(module, IntermediateLayerGetter):
        return all(name.startswith("layer") for name in module.return_layers)
    return type(module).forward is nn.Sequential.forward


def _joined(children: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Convolution, BatchNorm and ReLU in a row as one layer; GroupNorm and ReLU likewise."""
    joined: list[tuple[str, nn.Module]] = []
    for name, child in children:
        last = joined[-1][1] if joined else None
        if isinstance(last, FrozenConv2d) and last.take(child):
            continue
        if isinstance(last, FrozenGroupNorm) and last.take(child):
            continue
        known = isinstance(child, nn.GroupNorm) or (
            isinstance(child, nn.Conv2d) and _is_plain(child)
        )
        joined.append((name, frozen_network(child) if known else child))
    return joined


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
            gradient = _where_alive(gradient, lives)
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


def _where_alive(gradient: Tensor, lives: Tensor) -> Tensor:
    if gradient.is_cuda:  # the one kernel of torch that reads bits as they are, at full speed
        scaled: Tensor = _aten.native_dropout_backward(gradient, lives, 1.0)
        return scaled
    return torch.where(lives, gradient, 0.0)


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
        return _where_alive(gradient, lives)


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
        gradient = _where_alive(gradient, lives[0])
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
    layout = _layout(hidden) if on_cpu else torch.contiguous_format
    wide = tensor.to(torch.promote_types(hidden.dtype, torch.float32))
    return wide.contiguous(memory_format=layout)


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
        ctx.layout = _layout(hidden)
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


class _ResidualBlock(nn.Module):
    """A ResNet's block: two or three convolutions around which the input is added."""

    def __init__(self, block: Bottleneck | BasicBlock) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number in count(1):
            if not hasattr(block, f"conv{number}"):
                break
            layer = FrozenConv2d(getattr(block, f"conv{number}"))
            norm = getattr(block, f"bn{number}")
            if not layer.take(norm):
                raise TypeError(f"{type(norm).__name__} cannot be folded into a convolution")
            layer.relu = True
            self.layers.append(layer)
        self.shortcut = None if block.downsample is None else frozen_network(block.downsample)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W)."""
        *inner, last = self.layers
        added = hidden if self.shortcut is None else self.shortcut(hidden)
        for layer in inner:
            hidden = layer(hidden)
        output: Tensor = last(hidden, added)
        return output


_JOINED = (FrozenConv2d, FrozenGroupNorm)


def use_fused_kernels(network: nn.Module) -> None:
    """Make a network of these layers compute in channels last, several layers in one kernel.

    Convolution, bias, sum and ReLU by cuDNN, GroupNorm and ReLU by `kernels`. Equal up to
    rounding. Weights that were shared with the source are copied.
    """
    for layer in network.modules():
        if isinstance(layer, FrozenConv2d):
            layer.to(memory_format=torch.channels_last)
            layer.geometry.fused = True
        if isinstance(layer, FrozenGroupNorm):
            layer.fused = True


def _computed_in(hidden: Tensor) -> torch.dtype:
    """The type that a convolution of this input is computed in: autocast's, where it is on."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or hidden.dtype == torch.float64:
        return hidden.dtype
    return torch.get_autocast_dtype(device)


def _layout(hidden: Tensor) -> torch.memory_format:
    last = hidden.is_contiguous(memory_format=torch.channels_last) and not hidden.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
