from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotations.box_checks import box_findings
from pipeline.annotations.boxes import clip_boxes, scale_boxes, target_arrays, xywh_to_xyxy
from schemas.coco import Box
from schemas.finding import Finding, Severity
from tests.pipeline.annotations.test_box_checks import table

WIDTH, HEIGHT = 100, 60
coordinate = st.floats(-1e4, 1e4, allow_nan=False)
box_lists = st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=5)


def test_a_coco_box_ends_at_x_plus_width() -> None:
    assert xywh_to_xyxy([[1764, 872, 2, 5]]).tolist() == [[1764, 872, 1766, 877]]
    assert xywh_to_xyxy([]).shape == (0, 4)


@given(box_lists, st.floats(0.01, 10), st.floats(0.01, 10))
def test_scaling_comes_back(boxes: list[tuple[float, ...]], sx: float, sy: float) -> None:
    back = scale_boxes(scale_boxes(boxes, sx, sy), 1 / sx, 1 / sy)
    np.testing.assert_allclose(back, np.reshape(boxes, (-1, 4)), rtol=1e-12, atol=1e-12)


def test_scales_belong_to_their_axes() -> None:
    assert scale_boxes([[1, 2, 3, 4]], 10, 0.5).tolist() == [[10, 1, 30, 2]]


@given(box_lists)
def test_clipped_boxes_lie_inside_and_clip_to_themselves(boxes: list[tuple[float, ...]]) -> None:
    clipped = clip_boxes(boxes, WIDTH, HEIGHT)
    assert ((clipped >= 0) & (clipped <= [WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
    np.testing.assert_array_equal(clip_boxes(clipped, WIDTH, HEIGHT), clipped)


def make_box(*bbox: float, category: int = 1, error: bool = False) -> Box:
    x, y, width, height = bbox
    bad = Finding(code="zero-area", severity=Severity.ERROR, where="", message="")
    return Box(
        annotation_id=1,
        category_id=category,
        bbox=(x, y, width, height),
        findings=(bad,) if error else (),
    )


def test_targets_are_clipped_scaled_floats_of_trainable_boxes() -> None:
    boxes = [
        make_box(1, 3, 4, 5, category=3),
        make_box(5, 5, 0, 5, error=True),
        make_box(math.nan, 5, 1, 5, error=True),
        make_box(90, 50, 20, 20, category=2),
    ]
    arrays, labels, ignore = target_arrays(boxes, WIDTH, HEIGHT, 0.5, 0.25)
    assert arrays.dtype == np.float32
    assert labels.dtype == np.int64
    assert arrays.tolist() == [[0.5, 0.75, 2.5, 2.0], [45, 12.5, 50, 15]]
    assert labels.tolist() == [3, 2]
    assert ignore.shape == (0, 4)


def test_no_boxes_are_empty_arrays_of_the_right_shape() -> None:
    arrays, labels, ignore = target_arrays([], WIDTH, HEIGHT, 1, 1)
    assert (arrays.shape, labels.shape, ignore.shape) == ((0, 4), (0,), (0, 4))
    assert arrays.dtype == ignore.dtype == np.float32
    assert labels.dtype == np.int64


def test_a_box_that_float32_would_flatten_is_no_target() -> None:
    arrays, labels, _ = target_arrays([make_box(99.9999999, 5, 50, 5)], WIDTH, HEIGHT, 1, 1)
    assert (len(arrays), len(labels)) == (0, 0)


def assert_targets_hold(arrays: npt.NDArray[np.float32], width: float, height: float) -> None:
    assert (arrays[:, 2:] > arrays[:, :2]).all()
    assert ((arrays >= 0) & (arrays <= np.array([width, height] * 2, dtype=np.float32))).all()


@given(
    st.lists(
        st.tuples(
            st.floats(-2e4, 2e4), st.floats(-2e4, 2e4), st.floats(-1, 2e4), st.floats(-1, 2e4)
        ),
        max_size=8,
    ),
    st.floats(0.05, 1),
)
def test_every_box_without_an_error_becomes_a_target_detectors_accept(
    bboxes: list[tuple[float, float, float, float]], scale: float
) -> None:
    width, height = 5472.0, 3648.0
    found = box_findings(table(bboxes, size=(width, height)))
    boxes = [
        Box(annotation_id=row, category_id=1, bbox=bbox, findings=findings)
        for row, (bbox, findings) in enumerate(zip(bboxes, found, strict=True))
    ]
    arrays, _, _ = target_arrays(boxes, width, height, scale, scale)
    assert len(arrays) == sum(box.trainable for box in boxes)
    assert_targets_hold(arrays, width * scale, height * scale)
