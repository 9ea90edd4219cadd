"""Regions to ignore: what lies over them is left out of a detector's losses, as object and as not.

A region may hold objects of any number and class, or none (a crowd; an object of a class that the
detector does not know). COCO judges detections over a crowd by the share of *their* area inside it;
here the same share decides for anchors and proposals. What is given to an annotated object stays
that object's, wherever it lies.

torchvision's detectors know no such regions. `leave_out_regions` changes a detector so that its
losses do; where no target has an entry ``ignore``, it computes what it computed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import resize_boxes

#: Share of a box's area inside one region from which it lies over that region: the lowest IoU at
#: which COCO matches detections.
IGNORED_FROM: Final = 0.5

#: The logit of what is certain not to be there: its losses and their gradients are exactly 0.
_NEVER: Final = -1e4


def lie_over(boxes: Tensor, regions: Tensor | None) -> Tensor:
    """Which boxes lie over a region: (A, 4) and (M, 4) ``xyxy`` -> (A,) bool. M may be 0."""
    if regions is None or not len(regions):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    (left, top, right, bottom), (x1, y1, x2, y2) = regions[:, None].unbind(-1), boxes.unbind(-1)
    width = (torch.minimum(right, x2) - torch.maximum(left, x1)).clamp_(min=0)
    height = (torch.minimum(bottom, y2) - torch.maximum(top, y1)).clamp_(min=0)
    common = width.mul_(height).max(dim=0).values
    return (common > 0) & (common >= IGNORED_FROM * (x2 - x1) * (y2 - y1))


def leave_out_regions(model: nn.Module) -> None:
    """Make a torchvision detector's losses leave out what lies over its targets' ``ignore`` boxes.

    Parameters
    ----------
    model
        RetinaNet, FCOS, SSD or Faster R-CNN. Its targets may have ``ignore``, (m, 4) ``xyxy`` in
        pixels of their image, beside ``boxes`` and ``labels``.
    """
    changed: Any = model
    if _resize_regions in changed.transform._forward_hooks.values():
        return  # done before
    changed.transform.register_forward_hook(_resize_regions)
    if isinstance(model, GeneralizedRCNN):
        rpn, heads = changed.rpn, changed.roi_heads
        rpn.assign_targets_to_anchors = MethodType(_assign_anchors, rpn)
        heads.select_training_samples = MethodType(_select_samples, heads)
        return
    owner = changed if isinstance(model, SSD) else changed.head
    owner.compute_loss = MethodType(_compute_loss, owner)


def _resize_regions(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
    """torchvision's input resizing carries the boxes along; here the regions as well."""
    images, resized = inputs[0], outputs[0]
    for image, size, target in zip(images, resized.image_sizes, outputs[1] or (), strict=False):
        if "ignore" in target:
            before = (image.shape[-2], image.shape[-1])
            target["ignore"] = resize_boxes(target["ignore"], before, size)


def _compute_loss(
    owner: Any,
    targets: Sequence[Mapping[str, Tensor]],
    head_outputs: Mapping[str, Tensor],
    anchors: Sequence[Tensor],
    matched_idxs: Sequence[Tensor],
) -> Any:
    """Of RetinaNet, FCOS and SSD: anchors over a region say with certainty that nothing is there.

    That is right for background, so it costs nothing; SSD chooses its negatives by what they cost.
    """
    if any(_regions(target) is not None for target in targets):
        logits = head_outputs["cls_logits"]  # (B, A, classes)
        left_out = torch.stack(
            [
                lie_over(boxes, _regions(target)) & (matched < 0)
                for boxes, target, matched in zip(anchors, targets, matched_idxs, strict=True)
            ]
        )
        nothing = logits.new_full((logits.shape[-1],), _NEVER)
        if isinstance(owner, SSD):
            nothing[0] = 0  # of a softmax over classes, of which 0 is background
        blanked = torch.where(left_out[..., None], nothing, logits)
        head_outputs = {**head_outputs, "cls_logits": blanked}
    return type(owner).compute_loss(owner, targets, head_outputs, anchors, matched_idxs)


def _assign_anchors(
    rpn: Any, anchors: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> Any:
    """Of Faster R-CNN's first half: label -1 is neither 1, object, nor 0, background."""
    labels, boxes = type(rpn).assign_targets_to_anchors(rpn, anchors, targets)
    return _unlabelled(labels, anchors, targets), boxes


def _select_samples(
    heads: Any, proposals: list[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> Any:
    """Of Faster R-CNN's second half: as above, while its samples are drawn."""

    def assign(boxes: list[Tensor], *objects: Any) -> Any:
        matched, labels = type(heads).assign_targets_to_proposals(heads, boxes, *objects)
        return matched, _unlabelled(labels, boxes, targets)

    heads.assign_targets_to_proposals = assign
    try:
        return type(heads).select_training_samples(heads, proposals, targets)
    finally:
        del heads.assign_targets_to_proposals


def _unlabelled(
    labels: Sequence[Tensor], boxes: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """Background over a region is labelled -1; but not the last of a batch, of which means are made
    that would be of nothing."""
    kept = [
        torch.where((label == 0) & lie_over(one, _regions(target)), -1, label)
        for label, one, target in zip(labels, boxes, targets, strict=True)
    ]
    return kept if any(bool((label >= 0).any()) for label in kept) else list(labels)


def _regions(target: Mapping[str, Tensor]) -> Tensor | None:
    """Regions of an image; None for none."""
    regions = target.get("ignore")
    return regions if regions is not None and len(regions) else None
