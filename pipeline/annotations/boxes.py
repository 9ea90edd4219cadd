"""Boxes as arrays: formats and scales. Pure functions, no files.

Two formats. COCO ``xywh`` is ``(x, y, width, height)``; ``xyxy`` is ``(x1, y1, x2, y2)``. In both
the origin is the frame's top-left corner, x to the right, y down, pixel ``i`` covers ``[i, i + 1]``
and edges are measures, not indices: a box that ends at ``x2 == width`` is inside, and nothing here
adds, subtracts or rounds a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.coco import Box

FloatArray = npt.NDArray[np.float64]


class Targets(NamedTuple):
    """What one sample has to be trained on, at one level.

    Boxes are float32 ``xyxy`` in level pixels, origin at the level's top-left corner, edges
    inclusive, clipped to the frame, never rounded to pixels, ``x2 > x1`` and ``y2 > y1`` in
    float32.

    Attributes
    ----------
    boxes
        ``(n, 4)``: the objects.
    labels
        ``(n,)`` int64: their classes.
    ignore
        ``(m, 4)``: regions that are neither target nor background.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.float32]


def label_as_annotated(box: Box) -> int | None:
    """The category's number in the annotation file (NOD: 1 person, 2 bicycle, 3 car)."""
    return box.label


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
    label_of: Callable[[Box], int | None] = label_as_annotated,
) -> Targets:
    """Make the training target of one sample at one level.

    Parameters
    ----------
    boxes
        All boxes of the sample; what is neither `Box.trainable` nor `Box.ignored` is left out.
    frame_width, frame_height
        Annotated frame in pixels; boxes are clipped to it.
    scale_x, scale_y
        Level pixels per pixel of the annotated frame.
    label_of
        The label of a box's class, or None for a class that is not looked for: such a box becomes
        a region to ignore.
    """
    wanted = [(box, label_of(box)) for box in boxes if box.trainable]
    objects = [(box, label) for box, label in wanted if label is not None]
    regions = [box for box in boxes if box.ignored]
    regions += [box for box, label in wanted if label is None]

    def in_level(some: Sequence[Box]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        clipped = clip_boxes(xywh_to_xyxy([box.bbox for box in some]), frame_width, frame_height)
        level = scale_boxes(clipped, scale_x, scale_y).astype(np.float32)
        return level, (level[:, 2] > level[:, 0]) & (level[:, 3] > level[:, 1])

    level, has_area = in_level([box for box, _ in objects])
    labels = np.array([label for _, label in objects], dtype=np.int64)
    ignore, covers = in_level(regions)
    return Targets(level[has_area], labels[has_area], ignore[covers])


def _as_boxes(boxes: npt.ArrayLike) -> FloatArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
