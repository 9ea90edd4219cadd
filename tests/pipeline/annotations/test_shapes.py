"""Boxes of shapes, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.annotations.shapes import Bbox, ShapeError, box_of_shape

WIDTH, HEIGHT = 60, 40


def box(**record: Any) -> Bbox:
    return box_of_shape(record, WIDTH, HEIGHT)[0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_masks_have_the_boxes_of_pycocotools(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.choice([0.01, 0.1, 0.9])).astype(np.uint8)
    mask[rng.integers(height), rng.integers(width)] = 1
    packed = coco_mask.encode(np.asfortranarray(mask))
    changes = np.flatnonzero(np.diff(np.r_[0, mask.ravel(order="F")]))
    runs = np.diff(np.r_[0, changes, mask.size]).tolist()
    for counts in (packed["counts"].decode(), runs):
        segmentation = {"size": [height, width], "counts": counts}
        found, kind = box_of_shape({"segmentation": segmentation}, width, height)
        assert kind == "mask"
        assert list(found) == coco_mask.toBbox(packed).tolist()


@given(st.integers(5, 30), st.integers(5, 20), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_polygons_have_the_boxes_of_pycocotools(x: int, y: int, cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, bottom = x + int(rng.integers(12, 25)), y + int(rng.integers(12, 18))
    octagon = [x + cut, y, right - cut, y, right, y + cut, right, bottom - cut]
    octagon += [right - cut, bottom, x + cut, bottom, x, bottom - cut, x, y + cut]
    parts = [octagon, [1, 1, 4, 1, 4, 4, 1, 4]]
    oracle = coco_mask.toBbox(coco_mask.merge(coco_mask.frPyObjects(parts, HEIGHT, WIDTH)))
    assert np.abs(np.array(box(segmentation=parts)) - oracle).max() <= 1
    assert box(segmentation=octagon) == (x, y, right - x, bottom - y)  # one polygon, not in a list


def test_only_labelled_keypoints_span_the_box() -> None:
    keypoints = [0, 0, 0, 10, 12, 2, 20, 30, 1]
    assert box(keypoints=keypoints) == (10, 12, 10, 18)
    assert box(segmentation=[[1, 1, 5, 1, 5, 5]], keypoints=keypoints) == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no shape"),
        ({"segmentation": []}, "no shape"),
        ({"segmentation": "x"}, "no shape"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "three points"),
        ({"segmentation": [[1, 1, 1, 5, 1, 9]]}, "no area"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, [6]]]}, "list of numbers"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [2400]}}, "empty"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}}, "cover"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [2500, -100]}}, "cover"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [5, 2395]}}, "size"),
        ({"segmentation": {"counts": [5, 2395]}}, "size"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "\u00e9"}}, "compressed"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "o" * 50}}, "compressed"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "list of numbers"),
        ({"keypoints": [1, 2, 2]}, "two keypoints"),
        ({"keypoints": [0, 0, 0, 5, 5, 0]}, "two keypoints"),
        ({"keypoints": [1, 2, 2, 4]}, "x, y, v"),
    ],
)
def test_a_shape_without_a_box_is_refused(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        box(**record)
