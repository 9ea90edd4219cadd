"""What is wrong with boxes, all boxes of a file at once. Pure functions, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.annotations.boxes import FloatArray, clip_boxes, xywh_to_xyxy
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

SMALLEST_SIDE = 1 / 64
"""Pixels; a thinner box can lose its area in float32 arithmetic, and detectors refuse those."""
TINY_SIDE = 2.0  # pixels
HUGE_SHARE = 0.9
EXTREME_ASPECT = 20.0
DUPLICATE_IOU = 0.9
AREA_TOLERANCE = 1.0  # square pixels
EDGE_TOLERANCE = 1e-3
"""Pixels over the frame's edge that are rounding in the tool that wrote x and width."""


@dataclass(frozen=True)
class BoxTable:
    """Boxes of one or many images in columns, so that a whole file is checked at once.

    Attributes
    ----------
    bbox
        ``(n, 4)`` float64, COCO ``xywh`` in pixels of each box's annotated frame, as given.
    category
        ``(n,)`` int64, any number that is the same for boxes of one class; -1 where the class has
        no name.
    is_region
        ``(n,)`` bool: a crowd, or to be ignored.
    area
        ``(n,)`` float64 in pixels, NaN where there is none to compare with.
    image
        ``(n,)`` int64, any number that is the same for boxes of one image.
    width, height
        ``(n,)`` float64, size of each box's frame in pixels.
    where
        What findings call each box: file, annotation, image.
    """

    bbox: FloatArray
    category: IntArray
    is_region: BoolArray
    area: FloatArray
    image: IntArray
    width: FloatArray
    height: FloatArray
    where: Sequence[str]


def box_findings(table: BoxTable) -> list[tuple[Finding, ...]]:
    """Check every box on its own and against earlier boxes of its class in its image.

    Returns
    -------
    One tuple a box, empty for a box with nothing to say. Codes: `_MESSAGES`.
    """
    found: list[tuple[Finding, ...]] = [()] * len(table.where)
    masks, sound = _check(table)
    twin = near_duplicates(table, sound)
    masks[FindingCode.NEAR_DUPLICATE] = twin >= 0
    for code, mask in masks.items():
        for index in np.flatnonzero(mask).tolist():
            found[index] += (_verdict(code, table, index, int(twin[index])),)
    return found


def near_duplicates(table: BoxTable, sound: BoolArray) -> IntArray:
    """Find boxes that repeat an earlier box of their class and image (IoU above 0.9, clipped).

    Parameters
    ----------
    table
        The boxes; earlier means earlier in the table.
    sound
        ``(n,)`` bool, boxes that take part.

    Returns
    -------
    ``(n,)`` int64: the row of an earlier box, or -1.
    """
    twin = np.full(len(table.where), -1, dtype=np.int64)
    rows = np.flatnonzero(sound)
    boxes = clip_boxes(xywh_to_xyxy(table.bbox[rows]), table.width[rows], table.height[rows])
    area = _areas(boxes)
    order = np.lexsort((area, table.category[rows], table.image[rows]))
    rows, boxes, area = rows[order], boxes[order], area[order]
    group = np.stack([table.image[rows], table.category[rows]], axis=1)
    later = np.arange(1, len(rows))
    # Linear memory: each pass compares boxes with the one `step` places smaller. IoU is at most
    # the ratio of the areas: once that is too low, no still smaller box can match.
    for step in range(1, len(rows)):
        later = later[later >= step]
        close = area[later - step] > DUPLICATE_IOU * area[later]
        later = later[close & (group[later] == group[later - step]).all(axis=1)]
        if not later.size:
            break
        hits = later[_iou(boxes[later], boxes[later - step]) > DUPLICATE_IOU]
        pair = np.sort(np.stack([rows[hits - step], rows[hits]]), axis=0)
        twin[pair[1]] = pair[0]
    return twin


def _iou(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of ``xyxy`` boxes row by row: ``(n, 4), (n, 4) -> (n,)``."""
    overlap = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.clip(overlap, 0, None).prod(axis=1)
    iou: FloatArray = intersection / (_areas(boxes) + _areas(others) - intersection)
    return iou


def _areas(boxes: FloatArray) -> FloatArray:
    """Areas of ``xyxy`` boxes: ``(n, 4) -> (n,)``."""
    return np.multiply(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


# Boxes of 1e308 pixels are answered with a finding, not with warnings of numpy's.
@np.errstate(over="ignore", invalid="ignore")
def _check(table: BoxTable) -> tuple[dict[FindingCode, BoolArray], BoolArray]:
    """Masks ``(n,)`` by code, and the mask of boxes that can be targets."""
    given = xywh_to_xyxy(table.bbox)
    finite: BoolArray = np.all(np.isfinite(np.hstack([table.bbox, given])), axis=1)
    side = np.where(finite[:, None], table.bbox[:, 2:], 0)
    given = np.where(finite[:, None], given, 0)
    visible = clip_boxes(given, table.width, table.height)
    visible_side = visible[:, 2:] - visible[:, :2]
    has_area = finite & (side.min(axis=1, initial=np.inf) >= SMALLEST_SIDE)
    inside = has_area & (visible_side.min(axis=1, initial=np.inf) >= SMALLEST_SIDE)
    known = table.category >= 0
    area_error = np.abs(table.area - side.prod(axis=1))
    found = {
        FindingCode.NON_FINITE: ~finite,
        FindingCode.ZERO_AREA: finite & ~has_area,
        FindingCode.OUTSIDE_FRAME: has_area & ~inside,
        FindingCode.UNKNOWN_CATEGORY: ~known,
        FindingCode.CROWD: table.is_region,
        FindingCode.PARTLY_OUTSIDE: inside
        & (np.abs(visible - given).max(axis=1, initial=0) > EDGE_TOLERANCE),
        FindingCode.TINY: inside & (visible_side.min(axis=1, initial=np.inf) < TINY_SIDE),
        FindingCode.HUGE: inside
        & (visible_side.prod(axis=1) > HUGE_SHARE * table.width * table.height),
        FindingCode.EXTREME_ASPECT: inside
        & (side.max(axis=1, initial=0) > EXTREME_ASPECT * side.min(axis=1, initial=np.inf)),
        FindingCode.AREA_MISMATCH: finite & (area_error > AREA_TOLERANCE),
    }
    return found, inside & known & ~table.is_region


_MESSAGES = {
    FindingCode.NON_FINITE: "box {bbox} has a number that is not finite",
    FindingCode.ZERO_AREA: "box {bbox} has no area",
    FindingCode.OUTSIDE_FRAME: "box {bbox} lies outside its {frame} frame",
    FindingCode.UNKNOWN_CATEGORY: "its file gives its category no name",
    FindingCode.CROWD: "marked iscrowd, or to be ignored: neither target nor background",
    FindingCode.PARTLY_OUTSIDE: "box {bbox} reaches over the edge of its {frame} frame",
    FindingCode.TINY: "the visible part of box {bbox} is less than 2 px wide or high",
    FindingCode.HUGE: "box {bbox} covers more than 90 % of its {frame} frame",
    FindingCode.EXTREME_ASPECT: "box {bbox} is more than 20 times as long as wide",
    FindingCode.AREA_MISMATCH: "area {area} is not the width x height of box {bbox}",
    FindingCode.NEAR_DUPLICATE: "box {bbox} repeats {twin} (same class, IoU above 0.9)",
}


def _verdict(code: FindingCode, table: BoxTable, index: int, twin: int) -> Finding:
    text = _MESSAGES[code].format(
        bbox=_bbox_text(table.bbox[index].tolist()),
        frame=f"{table.width[index]:g}x{table.height[index]:g}",
        area=table.area[index],
        twin=table.where[twin] if twin >= 0 else "",
    )
    return code.finding(table.where[index], text)


def _bbox_text(bbox: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.12g}' for value in bbox)}]"
