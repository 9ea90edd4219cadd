"""Flips and resizing carry boxes along."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from genisp_model.data.augment import (
    FloatArray,
    box_areas,
    flip_boxes,
    flip_image,
    resize_images,
    scale_boxes,
)
from pipeline.develop.resample import area_weights

SIDES = st.integers(2, 40)


@st.composite
def framed_boxes(draw: st.DrawFn) -> tuple[int, int, FloatArray]:
    """Width, height, and boxes (n, 4) with edges at quarter pixels, which float32 holds exactly."""
    width, height = draw(SIDES), draw(SIDES)
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x = sorted(draw(st.sets(st.integers(0, 4 * width), min_size=2, max_size=2)))
        y = sorted(draw(st.sets(st.integers(0, 4 * height), min_size=2, max_size=2)))
        boxes.append([x[0] / 4, y[0] / 4, x[1] / 4, y[1] / 4])
    return width, height, np.array(boxes, np.float32).reshape(-1, 4)


@given(framed_boxes())
def test_flipping_twice_changes_nothing(framed: tuple[int, int, FloatArray]) -> None:
    width, height, boxes = framed
    image = torch.arange(3 * height * width, dtype=torch.float32).reshape(3, height, width)
    assert torch.equal(flip_image(flip_image(image)), image)
    np.testing.assert_array_equal(flip_boxes(flip_boxes(boxes, width), width), boxes)


@given(framed_boxes())
def test_flipped_boxes_stay_in_the_frame_with_their_size(
    framed: tuple[int, int, FloatArray],
) -> None:
    width, _, boxes = framed
    flipped = flip_boxes(boxes, width)
    assert ((flipped[:, 0] >= 0) & (flipped[:, 2] <= width)).all()
    np.testing.assert_array_equal(box_areas(flipped), box_areas(boxes))
    np.testing.assert_array_equal(flipped[:, 1::2], boxes[:, 1::2])


@given(SIDES, SIDES, st.data())
def test_a_painted_pixel_stays_inside_its_box(width: int, height: int, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    image = torch.zeros(3, height, width)
    image[:, y, x] = 1
    box = np.array([[x, y, x + 1, y + 1]], np.float32)
    x1, y1, x2, y2 = flip_boxes(box, width)[0].astype(int).tolist()
    flipped = flip_image(image)
    assert flipped[:, y1:y2, x1:x2].sum() == flipped.sum() == 3


def test_resizing_is_the_area_average_of_ingest() -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((2, 3, 23, 31), np.float32))
    matrices = []
    for length, count in ((23, 10), (31, 17)):
        table = area_weights(length, count)
        matrix = np.zeros((count, length))
        for row, first in enumerate(table.first):
            taps = table.weights[row][: length - first]
            matrix[row, first : first + len(taps)] = taps
        matrices.append(torch.from_numpy(matrix))
    expected = matrices[0] @ images.double() @ matrices[1].T
    torch.testing.assert_close(
        resize_images(images, (17, 10)).double(), expected, atol=1e-6, rtol=0
    )
    assert resize_images(images, (31, 23)) is images


def test_boxes_scale_by_axis() -> None:
    boxes = np.array([[2.0, 4.0, 6.0, 8.0]], np.float32)
    assert scale_boxes(boxes, 0.5, 0.25).tolist() == [[1, 1, 3, 2]]
