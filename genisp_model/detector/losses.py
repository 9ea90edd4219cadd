"""RetinaNet's losses without waiting for the device, and without keeping more than the logits.

torchvision selects anchors by boolean indexing, which asks the device how many there are, and keeps
some eight tensors of the logits' size. Here what does not count is multiplied by zero, nothing
depends on a number that only the device knows, and the backward pass computes again what it needs.
The arithmetic of each anchor is torchvision's own; only sums are made in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from genisp_model.detector.ignored_regions import lie_over
from schemas.training import BoxLoss

#: torchvision's focal loss: weight of objects (background has the rest); its exponent is 2.
_ALPHA = 0.25
#: Logits whose loss is computed at once: bounds the memory of intermediate results.
_AT_ONCE = 2**25
#: Marks rows that pad an image's boxes.
_NO_LABEL = -1


@dataclass(frozen=True)
class Objects:
    """Boxes of a batch, padded to the same number for each image.

    Attributes
    ----------
    boxes
        (B, N, 4) float ``xyxy``; N at least 1.
    labels
        (B, N) int64; -1 where a row only pads.
    ignore
        Of each image (m, 4): its regions to ignore; None for none at all.
    """

    boxes: Tensor
    labels: Tensor
    ignore: tuple[Tensor, ...] | None = None

    @classmethod
    def of(
        cls,
        boxes: list[Tensor],
        labels: list[Tensor],
        ignore: Sequence[Tensor] | None = None,
    ) -> Objects:
        """Pad the boxes (n, 4) and labels (n,) of each image; its regions stay as they are."""
        padded = pad_sequence(boxes, batch_first=True)
        names = pad_sequence(labels, batch_first=True, padding_value=_NO_LABEL)
        if not padded.shape[1]:
            padded = functional.pad(padded, (0, 0, 0, 1))
            names = functional.pad(names, (0, 1), value=_NO_LABEL)
        regions = tuple(ignore) if ignore and any(map(len, ignore)) else None
        return cls(padded, names, regions)

    @property
    def valid(self) -> Tensor:
        """(B, N) bool: the rows that are boxes."""
        return self.labels != _NO_LABEL

    def poison(self) -> Tensor:
        """(B,) float: 0, or NaN for an image with a box that has no width or height."""
        positive = (self.boxes[..., 2:] > self.boxes[..., :2]).all(dim=-1)
        spoiled = (self.valid & ~positive).any(dim=1)
        return torch.where(spoiled, torch.nan, 0.0)


@dataclass(frozen=True)
class Matches:
    """What each anchor is to predict.

    Attributes
    ----------
    boxes
        (B, A, 4): its object's box; the anchor itself where there is none.
    target
        (B, A) int32: its object's label; -1 where there is none.
    foreground, counted
        (B, A) bool: it has an object; it counts for the classification.
    share
        (B,): what a sum over an image's anchors is multiplied by: 1 over its anchors with objects.
    """

    boxes: Tensor
    target: Tensor
    foreground: Tensor
    counted: Tensor
    share: Tensor


@torch.no_grad()
def match(anchors: Tensor, objects: Objects, low: float, high: float) -> Matches:
    """Give anchors to objects as torchvision's matcher does, low-quality matches included.

    Parameters
    ----------
    anchors
        (A, 4) ``xyxy``.
    objects
        Their boxes.
    low, high
        An anchor is background below an IoU of `low`, an object's from `high` on, and does not
        count between. The best anchors of an object are given out whatever their IoU.
        Background over a region to ignore does not count either.
    """
    nearest, foreground, counted = zip(
        *(
            _match_one(anchors, boxes, valid, low, high)
            for boxes, valid in zip(objects.boxes, objects.valid, strict=True)
        ),
        strict=True,
    )
    index, hit, counts = torch.stack(nearest), torch.stack(foreground), torch.stack(counted)
    if objects.ignore is not None:
        left_out = torch.stack([lie_over(anchors, regions) for regions in objects.ignore])
        counts = hit | (counts & ~left_out)
    boxes = objects.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    labels = objects.labels.gather(1, index)
    return Matches(
        boxes=torch.where(hit[..., None], boxes, anchors),
        target=torch.where(hit, labels, _NO_LABEL).to(torch.int32),
        foreground=hit,
        counted=counts,
        share=1 / hit.sum(dim=1).clamp(min=1).to(anchors.dtype),
    )


def _match_one(
    anchors: Tensor, boxes: Tensor, valid: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor of an image: the nearest box (A,), whether it has it, whether it counts."""
    quality = _iou(boxes, anchors).masked_fill_(~valid[:, None], -1.0)  # (N, A)
    best, nearest = quality.max(dim=0)
    highest = quality.max(dim=1, keepdim=True).values
    rescued = ((quality == highest) & valid[:, None]).any(dim=0)
    foreground = rescued | (best >= high)
    return nearest, foreground, foreground | (best < low)


def _iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N, 4), (A, 4) -> (N, A); each number as torchvision's ``box_iou`` computes it."""
    (left, top, right, bottom), (x1, y1, x2, y2) = boxes[:, None].unbind(-1), anchors.unbind(-1)
    width = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    height = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    common = width.mul_(height)
    union = ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1)).sub_(common)
    return common.div_(union)


def focal_loss(
    logits: list[Tensor], matches: Matches, classes: int, *, fused: bool = False
) -> Tensor:
    """Classification loss of each image, as torchvision's RetinaNet computes it.

    Parameters
    ----------
    logits
        Of each pyramid level (B, anchors * classes, h, w), in any float type.
    matches
        Of the anchors in torchvision's order: level by level, row by row, cell by cell.
    classes
        How many a logit map has for each anchor.
    fused
        By `kernels`, where they take the logits.

    Returns
    -------
    Tensor
        (B,) float32 or wider, differentiable.
    """
    sizes = [level[0].numel() // classes for level in logits]
    columns = (matches.target, matches.counted * matches.share[:, None])
    parts = []
    for level, *own in zip(logits, *(torch.split(c, sizes, dim=1) for c in columns), strict=True):
        part: Tensor = _FocalLoss.apply(level, *own, classes, fused)
        parts.append(part)
    return torch.stack(parts).sum(dim=0)


class _FocalLoss(torch.autograd.Function):
    """One level: (B, anchors * classes, h, w), target and weight (B, h * w * anchors) -> (B,)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor, classes: int, fused: bool
    ) -> Tensor:
        ctx.classes, ctx.fused = classes, fused
        if fused:
            from genisp_model.detector import kernels

            ctx.fused = kernels.takes_logits(logits)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits, target, weight)
        if ctx.fused:
            return kernels.focal_forward(logits, target, weight, classes)
        maps = [_as_maps(column, logits) for column in (target, weight)]
        found = [
            focal_sum(_by_class(logits[part], classes), *(one[part] for one in maps))
            for part in _parts(logits)
        ]
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight = ctx.saved_tensors
        if ctx.fused:
            from genisp_model.detector.kernels import focal_backward

            slope = focal_backward(logits, target, weight, gradient, ctx.classes)
            return slope, None, None, None, None
        result = torch.empty_like(logits)
        maps = [_as_maps(column, logits) for column in (target, weight * gradient[:, None])]
        for part in _parts(logits):
            one = _by_class(logits[part], ctx.classes)
            slope = focal_slope(one, *(column[part] for column in maps))
            _by_class(result[part], ctx.classes).copy_(slope)
        return result, None, None, None, None


def _as_maps(column: Tensor, level: Tensor) -> Tensor:
    """(B, h * w * anchors) in torchvision's order -> (B, anchors, 1, h, w)."""
    batch, _, height, width = level.shape
    return column.view(batch, height, width, -1).permute(0, 3, 1, 2).unsqueeze(2)


def _by_class(level: Tensor, classes: int) -> Tensor:
    """(B, anchors * classes, h, w) -> (B, anchors, classes, h, w), the same memory."""
    batch, _, height, width = level.shape
    return level.view(batch, -1, classes, height, width)


def _parts(logits: Tensor) -> Iterator[slice]:
    """Images of a batch, as many at once as keep intermediate results small."""
    step = max(1, _AT_ONCE // logits[0].numel())
    return (slice(start, start + step) for start in range(0, len(logits), step))


def focal_sum(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(B, anchors, classes, h, w) and maps (B, anchors, 1, h, w) -> (B,)."""
    wide, hit, label = _wide(logits), target >= 0, target.clamp(min=0).long()
    background = _background_loss(wide)
    whole = background.sum(dim=2, keepdim=True)
    mine, theirs = wide.gather(2, label), background.gather(2, label)
    whole = whole + torch.where(hit, _object_loss(mine) - theirs, 0.0)
    # Anchors that do not count are left out: what they have may be no number.
    return torch.where(weight > 0, whole * weight, 0.0).sum(dim=(1, 2, 3, 4))


def focal_slope(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `focal_sum` towards the logits; `weight` with the gradient of each sum in it."""
    wide, hit, label = _wide(logits), target >= 0, target.clamp(min=0).long()
    slope = _background_slope(wide)
    mine = torch.where(hit, _object_slope(wide.gather(2, label)), slope.gather(2, label))
    return slope.scatter_(2, label, mine).mul_(weight)


def _background_loss(logits: Tensor) -> Tensor:
    """0.75 (1 - p_t)^2 ce, where p_t = 1 - p: rounded as torchvision's."""
    miss = 1 - (1 - torch.sigmoid(logits))
    entropy = logits - functional.logsigmoid(logits)
    return entropy.mul_(miss.square_()).mul_(1 - _ALPHA)


def _background_slope(logits: Tensor) -> Tensor:
    probability = torch.sigmoid(logits)
    rest = 1 - probability
    miss = 1 - rest
    # ce' = p and (miss^2)' = 2 miss p (1 - p)
    slope = (logits - functional.logsigmoid(logits)).mul_(rest).mul_(2).add_(miss)
    return slope.mul_(probability).mul_(miss).mul_(1 - _ALPHA)


def _object_loss(logits: Tensor) -> Tensor:
    miss = 1 - torch.sigmoid(logits)
    return -functional.logsigmoid(logits) * miss.square() * _ALPHA


def _object_slope(logits: Tensor) -> Tensor:
    probability = torch.sigmoid(logits)
    miss = 1 - probability
    # ce' = p - 1 and (miss^2)' = -2 miss p (1 - p)
    return _ALPHA * miss * miss * (2 * probability * functional.logsigmoid(logits) - miss)


def box_loss(
    kind: BoxLoss, deltas: Tensor, anchors: Tensor, matches: Matches, clip: float
) -> Tensor:
    """Regression loss of each image, as torchvision's RetinaNet computes it.

    Parameters
    ----------
    kind
        As `FrozenDetector.box_loss`.
    deltas
        (B, A, 4) float32 or wider: what the head says.
    anchors
        (A, 4).
    matches
        What it should say.
    clip
        Largest logarithm of a box's size over its anchor's.

    Returns
    -------
    Tensor
        (B,), differentiable.
    """
    hit = matches.foreground[..., None]
    deltas = torch.where(hit, deltas, 0.0)  # what others say must not become 0 times infinity
    if kind == "giou":
        loss = _giou_loss(_decoded(deltas, anchors, clip), matches.boxes)[..., None]
    elif kind == "l1":
        loss = functional.l1_loss(deltas, _encoded(matches.boxes, anchors), reduction="none")
    else:
        loss = functional.smooth_l1_loss(deltas, _encoded(matches.boxes, anchors), reduction="none")
    return torch.where(hit, loss, 0.0).sum(dim=(1, 2)) * matches.share


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width, height, and centre x and y of boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return width, height, x1 + 0.5 * width, y1 + 0.5 * height


@torch.no_grad()
def _encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (B, A, 4) as deltas from their anchors (A, 4)."""
    width, height, x, y = _centres(boxes)
    anchor_width, anchor_height, anchor_x, anchor_y = _centres(anchors)
    return torch.stack(
        (
            (x - anchor_x) / anchor_width,
            (y - anchor_y) / anchor_height,
            torch.log(width / anchor_width),
            torch.log(height / anchor_height),
        ),
        dim=-1,
    )


def _decoded(deltas: Tensor, anchors: Tensor, clip: float) -> Tensor:
    """Deltas (B, A, 4) as boxes."""
    anchor_width, anchor_height, anchor_x, anchor_y = _centres(anchors)
    dx, dy, dw, dh = deltas.unbind(-1)
    x, y = dx * anchor_width + anchor_x, dy * anchor_height + anchor_y
    half_width = 0.5 * (torch.exp(dw.clamp(max=clip)) * anchor_width)
    half_height = 0.5 * (torch.exp(dh.clamp(max=clip)) * anchor_height)
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def _giou_loss(boxes: Tensor, truth: Tensor, eps: float = 1e-7) -> Tensor:
    """(..., 4) each -> (...): torchvision's ``generalized_box_iou_loss`` without indexing."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    left, top, right, bottom = truth.unbind(-1)
    width = torch.min(x2, right) - torch.max(x1, left)
    height = torch.min(y2, bottom) - torch.max(y1, top)
    common = torch.where((height > 0) & (width > 0), width * height, 0.0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - common
    hull_width = torch.max(x2, right) - torch.min(x1, left)
    hull_height = torch.max(y2, bottom) - torch.min(y1, top)
    hull = hull_width * hull_height
    return 1 - (common / (union + eps) - (hull - union) / (hull + eps))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
