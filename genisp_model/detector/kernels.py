"""Kernels for a GPU of what takes longest around a frozen detector's convolutions, in Triton.

GroupNorm with its ReLU, and the focal loss, each in one or two passes over memory and in the
channels-last layout that tensor cores read; torch's own take some ten passes, and its GroupNorm
knows no channels-last layout on CUDA. Triton comes with torch's wheels for CUDA; this module cannot
be imported without. Statistics and arithmetic are float32 whatever the type of what is read.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows (pixels) a program holds at once, rows it walks over, and its warps.
_ROWS = 16
_WALK = 256
_WARPS = 8
#: Logits a program looks at.
_LOGITS = 2048


def takes_norm(hidden: Tensor, groups: int) -> bool:
    """Whether `norm_forward` computes this GroupNorm: channels last, sizes powers of two."""
    channels = hidden.shape[1]
    powers = channels & (channels - 1) == 0 and groups & (groups - 1) == 0
    last = hidden.is_contiguous(memory_format=torch.channels_last)
    return powers and groups < channels <= 1024 and last and hidden.dtype != torch.float64


def norm_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, relu: bool
) -> tuple[Tensor, Tensor]:
    """GroupNorm, and ReLU if `relu`, of (B, C, H, W) channels last.

    Returns
    -------
    tuple
        The output in the input's type and layout; mean and 1 / deviation, (B, 2, groups) float32.
    """
    batch, channels, height, width = hidden.shape
    rows = height * width
    walks = triton.cdiv(rows, _WALK)
    parts = torch.empty(batch, walks, 2, groups, dtype=torch.float32, device=hidden.device)
    moments = torch.empty(batch, 2, groups, dtype=torch.float32, device=hidden.device)
    output = torch.empty_like(hidden)
    sizes = _sizes(channels, groups)
    padded = triton.next_power_of_2(walks)
    _norm_statistics[(walks, batch)](hidden, parts, rows, walks, **sizes)
    _norm_moments[(batch,)](
        parts, moments, rows, walks, eps, CHANNELS=channels, GROUPS=groups, WALK=_WALK, PARTS=padded
    )
    _norm_output[(walks, batch)](hidden, weight, bias, moments, output, rows, RELU=relu, **sizes)
    return output, moments


def norm_backward(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    moments: Tensor,
    groups: int,
    *,
    relu: bool,
) -> Tensor:
    """Gradient towards the input, in its type and layout; the ReLU's bits are computed again."""
    batch, channels, height, width = hidden.shape
    rows = height * width
    walks = triton.cdiv(rows, _WALK)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    parts = torch.empty(batch, walks, 2, groups, dtype=torch.float32, device=hidden.device)
    result = torch.empty_like(hidden)
    sizes = _sizes(channels, groups)
    read = (gradient, hidden, weight, bias, moments)
    _norm_slopes[(walks, batch)](*read, parts, rows, walks, RELU=relu, **sizes)
    means = parts.sum(dim=1).div_(rows * (channels // groups))  # (B, 2, groups)
    _norm_gradient[(walks, batch)](*read, means, result, rows, RELU=relu, **sizes)
    return result


def _sizes(channels: int, groups: int) -> dict[str, Any]:
    names = {"CHANNELS": channels, "GROUPS": groups, "ROWS": _ROWS, "WALK": _WALK}
    return names | {"num_warps": _WARPS}


def takes_logits(logits: Tensor) -> bool:
    """Whether `focal_forward` computes the loss of these: channels last, not float64."""
    last = logits.is_contiguous(memory_format=torch.channels_last)
    return last and logits.dtype != torch.float64


def focal_forward(logits: Tensor, target: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Sums of weighted focal losses.

    Parameters
    ----------
    logits
        (B, anchors * classes, h, w), channels last.
    target
        (B, h * w * anchors) int32: the object's label, -1 for background.
    weight
        (B, h * w * anchors) float32: of the anchor's loss.
    classes
        Logits an anchor.

    Returns
    -------
    Tensor
        (B,) float32.
    """
    batch, count = len(logits), logits[0].numel()
    blocks = triton.cdiv(count, _LOGITS)
    parts = torch.empty(batch, blocks, dtype=torch.float32, device=logits.device)
    strides = (target.stride(0), weight.stride(0))
    _focal_sums[(blocks, batch)](
        logits, target, weight, parts, count, blocks, *strides, CLASSES=classes, BLOCK=_LOGITS
    )
    return parts.sum(dim=1)


def focal_backward(
    logits: Tensor, target: Tensor, weight: Tensor, gradient: Tensor, classes: int
) -> Tensor:
    """Gradient of `focal_forward` towards the logits, given that of its sums (B,)."""
    batch, count = len(logits), logits[0].numel()
    blocks = triton.cdiv(count, _LOGITS)
    result = torch.empty_like(logits)
    gradient = gradient.contiguous()  # that of a mean is one number, expanded
    strides = (target.stride(0), weight.stride(0))
    _focal_slopes[(blocks, batch)](
        logits, target, weight, gradient, result, count, *strides, CLASSES=classes, BLOCK=_LOGITS
    )
    return result


# Parameters carry no types: Triton reads annotations, and knows its own only.


@triton.jit
def _norm_statistics(
    hidden,
    parts,
    rows,
    walks,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
):
    """Mean and sum of squared distances of each group over the rows of one walk."""
    walk = tl.program_id(0)
    image = tl.program_id(1)
    each: tl.constexpr = CHANNELS // GROUPS
    channel = tl.arange(0, CHANNELS)
    base = hidden + image.to(tl.int64) * rows * CHANNELS
    first = walk * WALK
    # Distances from a number near the mean: sums of squares then lose nothing.
    near = tl.load(base + first * CHANNELS + channel).to(tl.float32)
    near = tl.sum(tl.reshape(near, (GROUPS, each)), axis=1) / each
    shift = tl.reshape(tl.broadcast_to(near[:, None], (GROUPS, each)), (CHANNELS,))
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    squares = tl.zeros((CHANNELS,), dtype=tl.float32)
    for start in range(0, tl.minimum(rows - first, WALK), ROWS):
        row = first + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        value = tl.load(base + row[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)
        away = tl.where(inside, value.to(tl.float32) - shift[None, :], 0.0)
        total += tl.sum(away, axis=0)
        squares += tl.sum(away * away, axis=0)
    count = tl.minimum(rows - first, WALK) * each
    total_of_group = tl.sum(tl.reshape(total, (GROUPS, each)), axis=1)
    squares_of_group = tl.sum(tl.reshape(squares, (GROUPS, each)), axis=1)
    away_mean = total_of_group / count
    group = tl.arange(0, GROUPS)
    at = parts + (image * walks + walk) * 2 * GROUPS + group
    tl.store(at, near + away_mean)
    tl.store(at + GROUPS, squares_of_group - total_of_group * away_mean)


@triton.jit
def _norm_moments(
    parts,
    moments,
    rows,
    walks,
    eps,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    WALK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """What the walks of an image found, together: mean and 1 / deviation of each group."""
    image = tl.program_id(0)
    each: tl.constexpr = CHANNELS // GROUPS
    group = tl.arange(0, GROUPS)
    part = tl.arange(0, PARTS)
    inside = (part < walks)[:, None]
    at = parts + (image * walks + part[:, None]) * 2 * GROUPS + group[None, :]
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + GROUPS, mask=inside, other=0.0)
    count = tl.minimum(rows - part * WALK, WALK)[:, None] * each
    count = tl.where(inside, count, 0).to(tl.float32)
    whole = rows * each
    mean = tl.sum(means * count, axis=0) / whole
    away = tl.where(inside, means - mean[None, :], 0.0)
    variance = (tl.sum(squares, axis=0) + tl.sum(count * away * away, axis=0)) / whole
    to = moments + image * 2 * GROUPS + group
    tl.store(to, mean)
    tl.store(to + GROUPS, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _norm_output(
    hidden,
    weight,
    bias,
    moments,
    output,
    rows,
    RELU: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
):
    """Normalised, scaled, shifted, rectified."""
    walk = tl.program_id(0)
    image = tl.program_id(1)
    each: tl.constexpr = CHANNELS // GROUPS
    channel = tl.arange(0, CHANNELS)
    of_group = moments + image * 2 * GROUPS + channel // each
    mean = tl.load(of_group)
    deviation = tl.load(of_group + GROUPS)
    scale = tl.load(weight + channel).to(tl.float32)
    shift = tl.load(bias + channel).to(tl.float32)
    base = image.to(tl.int64) * rows * CHANNELS
    for start in range(0, tl.minimum(rows - walk * WALK, WALK), ROWS):
        row = walk * WALK + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        at = base + row[:, None] * CHANNELS + channel[None, :]
        value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * deviation[None, :] * scale[None, :] + shift[None, :]
        if RELU:
            value = tl.maximum(value, 0.0)
        tl.store(output + at, value.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _norm_slopes(
    gradient,
    hidden,
    weight,
    bias,
    moments,
    parts,
    rows,
    walks,
    RELU: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
):
    """Sums over one walk of each group's gradient, and of it times the normalised input."""
    walk = tl.program_id(0)
    image = tl.program_id(1)
    each: tl.constexpr = CHANNELS // GROUPS
    channel = tl.arange(0, CHANNELS)
    of_group = moments + image * 2 * GROUPS + channel // each
    mean = tl.load(of_group)
    deviation = tl.load(of_group + GROUPS)
    scale = tl.load(weight + channel).to(tl.float32)
    shift = tl.load(bias + channel).to(tl.float32)
    base = image.to(tl.int64) * rows * CHANNELS
    level = tl.zeros((CHANNELS,), dtype=tl.float32)
    along = tl.zeros((CHANNELS,), dtype=tl.float32)
    for start in range(0, tl.minimum(rows - walk * WALK, WALK), ROWS):
        row = walk * WALK + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        at = base + row[:, None] * CHANNELS + channel[None, :]
        value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
        normal = (value - mean[None, :]) * deviation[None, :]
        slope = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            slope = tl.where(normal * scale[None, :] + shift[None, :] > 0.0, slope, 0.0)
        slope = slope * scale[None, :]
        level += tl.sum(slope, axis=0)
        along += tl.sum(slope * normal, axis=0)
    to = parts + (image * walks + walk) * 2 * GROUPS + tl.arange(0, GROUPS)
    tl.store(to, tl.sum(tl.reshape(level, (GROUPS, each)), axis=1))
    tl.store(to + GROUPS, tl.sum(tl.reshape(along, (GROUPS, each)), axis=1))


@triton.jit
def _norm_gradient(
    gradient,
    hidden,
    weight,
    bias,
    moments,
    means,
    result,
    rows,
    RELU: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
):
    """The gradient towards the input, from the means of what `_norm_slopes` summed."""
    walk = tl.program_id(0)
    image = tl.program_id(1)
    each: tl.constexpr = CHANNELS // GROUPS
    channel = tl.arange(0, CHANNELS)
    of_group = image * 2 * GROUPS + channel // each
    mean = tl.load(moments + of_group)
    deviation = tl.load(moments + of_group + GROUPS)
    level = tl.load(means + of_group)
    along = tl.load(means + of_group + GROUPS)
    scale = tl.load(weight + channel).to(tl.float32)
    shift = tl.load(bias + channel).to(tl.float32)
    base = image.to(tl.int64) * rows * CHANNELS
    for start in range(0, tl.minimum(rows - walk * WALK, WALK), ROWS):
        row = walk * WALK + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        at = base + row[:, None] * CHANNELS + channel[None, :]
        value = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
        normal = (value - mean[None, :]) * deviation[None, :]
        slope = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            slope = tl.where(normal * scale[None, :] + shift[None, :] > 0.0, slope, 0.0)
        slope = slope * scale[None, :]
        slope = (slope - level[None, :] - normal * along[None, :]) * deviation[None, :]
        tl.store(result + at, slope.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _log1p(small):
    """log(1 + small) to the last digits, also where 1 + small is rounded."""
    whole = 1.0 + small
    rounded = tl.where(whole == 1.0, 1.0, whole - 1.0)
    return tl.where(whole == 1.0, small, tl.log(whole) * (small / rounded))


@triton.jit
def _focal_sums(
    logits,
    target,
    weight,
    parts,
    count,
    blocks,
    target_stride,
    weight_stride,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of one block of an image's logits; each loss is rounded as torchvision's."""
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    number = block * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    anchor = number // CLASSES
    value = tl.load(logits + image * count + number, mask=inside, other=0.0).to(tl.float32)
    share = tl.load(weight + image * weight_stride + anchor, mask=inside, other=0.0)
    label = tl.load(target + image * target_stride + anchor, mask=inside, other=-1)
    probability = 1.0 / (1.0 + tl.exp(-value))
    logarithm = tl.minimum(value, 0.0) - _log1p(tl.exp(-tl.abs(value)))
    miss = 1.0 - (1.0 - probability)
    background = 0.75 * ((value - logarithm) * (miss * miss))
    missed = 1.0 - probability
    of_object = 0.25 * (-logarithm * (missed * missed))
    loss = tl.where(label == number % CLASSES, of_object, background)
    # Anchors that do not count are left out: what they have may be no number.
    loss = tl.where(share > 0.0, loss * share, 0.0)
    tl.store(parts + image * blocks + block, tl.sum(loss, axis=0))


@triton.jit
def _focal_slopes(
    logits,
    target,
    weight,
    gradient,
    result,
    count,
    target_stride,
    weight_stride,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of one block of an image's logits."""
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    number = block * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    anchor = number // CLASSES
    value = tl.load(logits + image * count + number, mask=inside, other=0.0).to(tl.float32)
    share = tl.load(weight + image * weight_stride + anchor, mask=inside, other=0.0)
    label = tl.load(target + image * target_stride + anchor, mask=inside, other=-1)
    probability = 1.0 / (1.0 + tl.exp(-value))
    logarithm = tl.minimum(value, 0.0) - _log1p(tl.exp(-tl.abs(value)))
    rest = 1.0 - probability
    miss = 1.0 - rest
    background = 0.75 * probability * miss * (miss + 2.0 * (value - logarithm) * rest)
    of_object = 0.25 * rest * rest * (2.0 * probability * logarithm - rest)
    slope = tl.where(label == number % CLASSES, of_object, background)
    slope = slope * share * tl.load(gradient + image)
    to = result + image * count + number
    tl.store(to, slope.to(result.dtype.element_ty), mask=inside)
