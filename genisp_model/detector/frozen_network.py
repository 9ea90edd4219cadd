"""A torchvision network rebuilt of layers that keep only what the gradient towards the image needs.

Forward and backward compute the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck

from genisp_model.detector.convolution import FrozenConv2d
from genisp_model.detector.group_norm import FrozenGroupNorm
from genisp_model.detector.layers import FrozenMaxPool2d, FrozenReLU

_JOINED = (FrozenConv2d, FrozenGroupNorm)


def frozen_network(module: nn.Module) -> nn.Module:
    """The same network with frozen layers wherever there is one for what it does.

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
