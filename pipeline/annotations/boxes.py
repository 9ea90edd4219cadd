"""Boxes as arrays: formats and scales. Pure functions, no files.

Two formats. COCO ``xywh`` is ``(x, y, width, height)``; ``xyxy`` is ``(x1, y1, x2, y2)``. In both
the origin is the frame's top-left corner, x to the right, y down, pixel ``i`` covers ``[i, i + 1]``
and edges are measures, not indices: a box that ends at ``x2 == width`` is inside, and nothing here
adds, subtracts or rounds a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.coco import Box

FloatArray = npt.NDArray[np.float64]


def xywh_to_xyxy(boxes: npt.ArrayLike) -> FloatArray:
    """Turn COCO ``xywh`` into ``xyxy`` of the same frame.

    Parameters
    ----------
    boxes
        ``(n, 4)``, any real dtype, pixels of any grid.

    Returns
    -------
    ``(n, 4)`` float64 in the same pixels. NaN, infinities and overflow pass through silently.
    """
    start, size = np.split(_as_boxes(boxes), 2, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.hstack([start, start + size])


def scale_boxes(boxes: npt.ArrayLike, scale_x: float, scale_y: float) -> FloatArray:
    """Carry ``xyxy`` boxes to a grid of another resolution; inverse: ``1 / scale``.

    Parameters
    ----------
    boxes
        ``(n, 4)`` ``xyxy`` in pixels of the old grid.
    scale_x, scale_y
        Pixels of the new grid per pixel of the old one (0.5 for the packed level).

    Returns
    -------
    ``(n, 4)`` float64 ``xyxy`` in pixels of the new grid, not rounded.
    """
    return _as_boxes(boxes) * np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float64)


def clip_boxes(boxes: npt.ArrayLike, width: npt.ArrayLike, height: npt.ArrayLike) -> FloatArray:
    """Cut ``xyxy`` boxes to the frame ``[0, width] x [0, height]``, edges inclusive.

    Parameters
    ----------
    boxes
        ``(n, 4)`` ``xyxy`` in pixels.
    width, height
        Frame size in the same pixels; one for all boxes or ``(n,)``.

    Returns
    -------
    ``(n, 4)`` float64 ``xyxy``; a box outside the frame comes back without area, on its border.
    """
    clipped = _as_boxes(boxes).copy()
    clipped[:, 0::2] = np.clip(clipped[:, 0::2], 0, np.reshape(width, (-1, 1)))
    clipped[:, 1::2] = np.clip(clipped[:, 1::2], 0, np.reshape(height, (-1, 1)))
    return clipped


def target_arrays(
    boxes: Sequence[Box],
    frame_width: float,
    frame_height: float,
    scale_x: float,
    scale_y: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Make the training target of one sample at one level.

    Parameters
    ----------
    boxes
        All boxes of the sample; those that are not `Box.trainable` are left out.
    frame_width, frame_height
        Annotated frame in pixels; boxes are clipped to it.
    scale_x, scale_y
        Level pixels per pixel of the annotated frame.

    Returns
    -------
    boxes
        ``(n, 4)`` float32 ``xyxy`` in level pixels, origin at the level's top-left corner, edges
        inclusive, never rounded to pixels, ``x2 > x1`` and ``y2 > y1`` in float32.
    labels
        ``(n,)`` int64 COCO ids: 1 person, 2 bicycle, 3 car.
    """
    trainable = [box for box in boxes if box.trainable]
    clipped = clip_boxes(xywh_to_xyxy([box.bbox for box in trainable]), frame_width, frame_height)
    level = scale_boxes(clipped, scale_x, scale_y).astype(np.float32)
    labels = np.array([box.category_id for box in trainable], dtype=np.int64)
    has_area = (level[:, 2] > level[:, 0]) & (level[:, 3] > level[:, 1])
    return level[has_area], labels[has_area]


def _as_boxes(boxes: npt.ArrayLike) -> FloatArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
