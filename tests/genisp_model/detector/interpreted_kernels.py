"""`genisp_model.detector.kernels` beside torch, without a GPU: by Triton's interpreter.

Run in a process of its own with TRITON_INTERPRET=1: Triton looks when it is imported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genisp_model.detector import kernels, load_frozen_detector
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.group_norm import FrozenGroupNorm
from genisp_model.detector.losses import Matches, focal_loss

_LAST: Any = {"memory_format": torch.channels_last}


def main() -> None:
    """Assert; say nothing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for relu in (False, True):
            _compare_norms(torch.randn(2, 32, 17, 19).add(3).to(dtype), 4, relu, most)
        _compare_losses(dtype, most)
    _compare_engines()


def _compare_norms(hidden: Tensor, groups: int, relu: bool, most: float) -> None:
    hidden = hidden.contiguous(**_LAST)
    assert kernels.takes_norm(hidden, groups)
    norm = nn.GroupNorm(groups, hidden.shape[1])
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    slope = torch.randn_like(hidden)
    found = []
    for fused in (False, True):
        layer = FrozenGroupNorm(norm)
        layer.relu, layer.fused = relu, fused
        image = hidden.clone(**_LAST).requires_grad_()
        output = layer(image)
        found.append((output.detach(), *torch.autograd.grad(output, image, slope)))
    plain, ours = found
    assert ours[0].is_contiguous(**_LAST)
    assert ours[0].dtype == hidden.dtype
    assert all(_away(one, other) < most for one, other in zip(ours, plain, strict=True))


def _compare_losses(dtype: torch.dtype, most: float) -> None:
    """Two levels, 9 anchors of 7 classes."""
    levels = [torch.randn(3, 63, *size).mul(3).to(dtype) for size in ((5, 6), (2, 3))]
    count = 9 * (30 + 6)
    hit = torch.rand(3, count) > 0.8
    matches = Matches(
        boxes=torch.empty(0),
        target=torch.where(hit, torch.randint(0, 7, (3, count)), -1).to(torch.int32),
        foreground=hit,
        counted=hit | (torch.rand(3, count) > 0.2),
        share=torch.rand(3),
    )
    found = []
    for fused in (False, True):
        logits = [level.contiguous(**_LAST).requires_grad_() for level in levels]
        assert all(map(kernels.takes_logits, logits))
        loss = focal_loss(logits, matches, 7, fused=fused)
        slopes = torch.autograd.grad(loss[1] + 2 * loss[2], logits, retain_graph=True)
        expanded = torch.autograd.grad(loss.mean(), logits)
        found.append((loss.detach(), *slopes, *expanded))
    assert _away(found[1][0], found[0][0]) < 1e-6
    assert all(_away(one, other) < most for one, other in zip(*found, strict=True))


def _compare_engines() -> None:
    """All but cuDNN's part, which is CUDA's alone."""
    detector = load_frozen_detector("sample_retinanet", "sample")
    images = torch.rand(2, 3, 32, 32)
    box = {"boxes": torch.tensor([[4.0, 5, 20, 30]]), "labels": torch.tensor([2])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = []
    for fused in (False, True):
        image = images.clone().requires_grad_()
        losses = FrozenEngine(detector, checked=False, fused=fused).losses(image, [box, none])
        total = torch.stack(list(losses.values())).sum()
        found.append((total.detach(), *torch.autograd.grad(total, image)))
    (plain, plain_gradient), (ours, gradient) = found
    assert _away(ours, plain) < 1e-6
    assert _away(gradient, plain_gradient) < 1e-4


def _away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())
