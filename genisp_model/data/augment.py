"""Changes of an image that carry its boxes along. Pure functions.

Images are tensors. Boxes are numpy arrays: there are a few an image, and on so little torch spends
ten times as long. They are ``xyxy`` in pixels of their image, origin at its top-left corner, pixel
``i`` covering ``[i, i + 1]``; edges are measures, so a flip is ``width - x`` without a pixel added
or taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.develop.resample import area_weights, fitted_size

__all__ = ["box_areas", "fitted_size", "flip_boxes", "flip_image", "resize_images", "scale_boxes"]

FloatArray = npt.NDArray[np.float32]


def flip_image(image: Tensor) -> Tensor:
    """Mirror left and right: (..., h, w) -> (..., h, w), a copy."""
    return image.flip(-1)


def flip_boxes(boxes: FloatArray, width: int) -> FloatArray:
    """Mirror boxes left and right: (n, 4) ``xyxy`` -> (n, 4) ``xyxy``, a copy.

    Parameters
    ----------
    boxes
        (n, 4) float32 in pixels of an image.
    width
        Of that image, in pixels.
    """
    flipped = boxes.copy()
    flipped[:, ::2] = width - boxes[:, 2::-2]
    return flipped


def scale_boxes(boxes: FloatArray, scale_x: float, scale_y: float) -> FloatArray:
    """Carry boxes to a grid of another resolution, not rounded: (n, 4) ``xyxy`` -> (n, 4)."""
    return boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)


def box_areas(boxes: FloatArray) -> FloatArray:
    """Areas in square pixels: (n, 4) ``xyxy`` -> (n,)."""
    areas: FloatArray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


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
