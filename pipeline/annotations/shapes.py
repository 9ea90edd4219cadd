"""The box of an annotation that has none: that of its polygons, mask or keypoints. Pure.

Formats as in the COCO data format (https://cocodataset.org/#format-data) and pycocotools, which
the tests compare with. A shape that cannot be read gives an `ShapeError`, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bbox = tuple[float, float, float, float]
"""COCO ``(x, y, width, height)`` in pixels."""

MAX_RUNS: Final = 2_000_000
"""Runs of one mask that are believed; more do not fit into a record."""


class ShapeError(ValueError):
    """Raised where a shape gives no box; says why."""


def box_of_shape(record: Mapping[str, Any], width: int, height: int) -> tuple[Bbox, str]:
    """Find the box of a record's shape.

    Parameters
    ----------
    record
        An annotation record as it stands in the file.
    width, height
        Size of its image in pixels; a mask must have it.

    Returns
    -------
    The box, and what it is that of: ``"polygons"``, ``"mask"`` or ``"keypoints"``. Of polygons and
    keypoints it spans their points; of a mask it spans its pixels, each a square of side 1.

    Raises
    ------
    ShapeError
        If there is no shape, or it has no area, or it is none of these.
    """
    shape, keypoints = record.get("segmentation"), record.get("keypoints")
    if isinstance(shape, dict):
        found, kind = _mask_box(shape, width, height), "mask"
    elif isinstance(shape, list) and shape:
        parts = [_mask_box(part, width, height) for part in shape if isinstance(part, dict)]
        if len(parts) == len(shape):
            found, kind = _union(parts), "mask"
        else:
            found, kind = _polygons_box(shape), "polygons"
    elif isinstance(keypoints, list) and keypoints:
        found, kind = _keypoints_box(keypoints), "keypoints"
    else:
        raise ShapeError("no shape to find one from")
    if not all(map(math.isfinite, found)) or min(found[2:]) <= 0:
        raise ShapeError(f"its {kind} have no area")
    return found, kind


def _polygons_box(shape: Sequence[Any]) -> Bbox:
    polygons = shape if isinstance(shape[0], list) else [shape]
    points = [_numbers(polygon, "polygon") for polygon in polygons]
    if any(len(flat) < 6 or len(flat) % 2 for flat in points):
        raise ShapeError("a polygon needs three points or more: [x1, y1, x2, y2, ...]")
    return _span(np.concatenate(points).reshape(-1, 2))


def _keypoints_box(keypoints: Sequence[Any]) -> Bbox:
    flat = _numbers(keypoints, "list of keypoints")
    if len(flat) % 3:
        raise ShapeError("keypoints are not [x, y, v] each")
    points = flat.reshape(-1, 3)
    labelled = points[points[:, 2] > 0]
    if len(labelled) < 2:
        raise ShapeError("fewer than two keypoints are labelled")
    return _span(labelled[:, :2])


def _span(points: npt.NDArray[np.float64]) -> Bbox:
    """The box of points (n, 2)."""
    (x, y), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x, y, right - x, bottom - y


def _union(boxes: Sequence[Bbox]) -> Bbox:
    corners = np.array(boxes)
    corners[:, 2:] += corners[:, :2]
    return _span(corners.reshape(-1, 2))


def _mask_box(mask: Mapping[str, Any], width: int, height: int) -> Bbox:
    """The box of a run-length encoded mask; its runs go down the columns, background first."""
    if mask.get("size") != [height, width]:
        raise ShapeError(
            f"its mask has the size {mask.get('size')!r:.40}, its image [{height}, {width}]"
        )
    counts = mask.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str) else _numbers(counts, "mask")
    if len(runs) > MAX_RUNS or (runs < 0).any() or runs.sum() != width * height:
        raise ShapeError("the runs of its mask do not cover its image")
    ends = runs.astype(np.int64).cumsum()
    first, last = ends[0:-1:2], ends[1::2] - 1
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        raise ShapeError("its mask is empty")
    left, right = int(first[0]) // height, int(last[-1]) // height
    # A run that goes on in the next column touches top and bottom.
    whole = bool((first // height < last // height).any())
    top = 0 if whole else int((first % height).min())
    bottom = height - 1 if whole else int((last % height).max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _unpacked(text: str) -> npt.NDArray[np.float64]:
    """Runs of a compressed mask: numbers of five bits a letter, from the third on the difference
    to the number two before (``rleFrString`` of pycocotools' maskApi.c)."""
    letters = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ShapeError("its mask is not in COCO's compressed form")
    starts = np.flatnonzero(np.r_[True, (letters[:-1] & 32) == 0])
    lengths = np.diff(np.r_[starts, len(letters)])
    if lengths.max() > 8:
        raise ShapeError("its mask is not in COCO's compressed form")
    place = np.arange(len(letters)) - np.repeat(starts, lengths)
    values = np.add.reduceat((letters & 31) << (5 * place), starts)
    negative = (letters[starts + lengths - 1] & 16) != 0
    values = values - np.where(negative, np.int64(1) << (5 * lengths), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values.astype(np.float64)


def _numbers(values: object, what: str) -> npt.NDArray[np.float64]:
    is_list = isinstance(values, list) and not any(isinstance(one, bool | str) for one in values)
    try:
        found = np.array(values if is_list else None, np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty((0, 0))
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ShapeError(f"its {what} is not a list of numbers")
    return found
