"""Changes of an image that carry its boxes along. Pure functions of tensors.

Boxes are ``xyxy`` in pixels of their image, origin at its top-left corner, pixel ``i`` covering
``[i, i + 1]``; edges are measures, so a flip is ``width - x`` without a pixel added or taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.resample import area_weights, fitted_size

__all__ = ["box_areas", "fitted_size", "flip_boxes", "flip_image", "resize_images", "scale_boxes"]


def flip_image(image: Tensor) -> Tensor:
    """Mirror left and right: (..., h, w) -> (..., h, w), a copy."""
    return image.flip(-1)


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Mirror boxes left and right: (n, 4) ``xyxy`` -> (n, 4) ``xyxy``.

    Parameters
    ----------
    boxes
        (n, 4) in pixels of an image.
    width
        Of that image, in pixels.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


def scale_boxes(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Carry boxes to a grid of another resolution, not rounded: (n, 4) ``xyxy`` -> (n, 4)."""
    return boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])


def box_areas(boxes: Tensor) -> Tensor:
    """Areas in square pixels: (n, 4) ``xyxy`` -> (n,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce images by exact area averaging, as ingest makes the resized level.

    Parameters
    ----------
    images
        (B, 3, H, W) float32, linear in light.
    size
        (width, height) of the result, neither larger than the input's.

    Returns
    -------
    (B, 3, height, width) float32 on the same device; `images` itself where nothing changes.
    """
    width, height = size
    return _averaged(_averaged(images, -2, height), -1, width)


def _averaged(images: Tensor, axis: int, count: int) -> Tensor:
    """Area averages along one axis: its length becomes `count`."""
    length = images.shape[axis]
    if length == count:
        return images
    table = area_weights(length, count)
    shape = (-1, 1) if axis == -2 else (-1,)
    first = torch.from_numpy(table.first).to(images.device)
    weights = torch.from_numpy(table.weights).to(images.device)
    total: Tensor | None = None
    for tap in range(weights.shape[1]):
        # A tap past the edge has weight 0; clamping only keeps its address valid.
        pixels = images.index_select(axis, (first + tap).clamp_(max=length - 1))
        pixels *= weights[:, tap].reshape(shape)
        total = pixels if total is None else total.add_(pixels)
    assert total is not None  # area_weights gives at least one tap
    return total
