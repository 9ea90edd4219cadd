from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.annotations.units import BoxesOfFile, Doubt, doubts

Array = npt.NDArray[np.float64]
SIZE = (6016, 4016)


def doubt(bbox: Array, per_image: int = 1, size: tuple[int, int] = SIZE) -> Doubt | None:
    """The one thing that boxes (n, 4) seem to be."""
    image = np.arange(len(bbox)) // per_image
    sizes = np.tile(size, (int(image.max()) + 1, 1))
    found = list(doubts(BoxesOfFile.of(bbox.astype(float), image, sizes)))
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def shares() -> Array:
    """Forty boxes in shares of their frames, of objects everywhere."""
    rng = np.random.default_rng(5)
    start, side = rng.uniform(0, 0.7, (40, 2)), rng.uniform(0.05, 0.3, (40, 2))
    return np.hstack([start, side])


def pixels(shares: Array, size: tuple[int, int] = SIZE) -> Array:
    found: Array = shares * np.array([*size, *size], np.float64)
    return found


def moved(boxes: Array, by: float) -> Array:
    return boxes + np.array([by, by, 0, 0])


def corners(boxes: Array) -> Array:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def test_boxes_in_pixels_are_not_doubted(shares: Array) -> None:
    assert doubt(pixels(shares)) is None
    assert doubt(pixels(shares[:1])) is None
    assert doubt(np.array([[0, 0, 1, 1]])) is None  # a stray click
    over = pixels(shares)
    over[0, 2] = SIZE[0]  # one careless box
    assert doubt(over) is None
    assert doubt(pixels(shares, (192, 128)), size=(192, 128)) is None


@pytest.mark.parametrize("count", [1, 3, 40])
def test_fractions_are_recognised_from_the_first_box(shares: Array, count: int) -> None:
    for fractions in (shares, moved(shares, 0.2), corners(shares)):
        found = doubt(fractions[:count])
        assert found is not None
        assert "fractions" in found.message
        assert len(found.images) == count


def test_only_the_images_whose_boxes_are_fractions_are_refused(shares: Array) -> None:
    found = doubt(np.vstack([pixels(shares), shares[:5]]))
    assert found is not None
    assert found.images.tolist() == [40, 41, 42, 43, 44]


def test_per_cent_is_refused_where_it_cannot_be_chance(shares: Array) -> None:
    found = doubt(shares * 100)
    assert found is not None
    assert "per cent" in found.message
    assert len(found.images) == 40
    one_image = doubt(shares[:5] * 100, per_image=5)
    assert one_image is not None
    assert "per cent" in one_image.message
    assert not len(one_image.images)


def test_corners_are_reported_and_not_refused(shares: Array) -> None:
    found = doubt(corners(pixels(shares)))
    assert found is not None
    assert "x1, y1, x2, y2" in found.message
    assert not len(found.images)


def test_boxes_of_a_larger_picture_are_refused(shares: Array) -> None:
    found = doubt(pixels(moved(shares, 0.1)), size=(1504, 1004))
    assert found is not None
    assert "another size" in found.message
    assert len(found.images) > 20


def test_boxes_of_a_smaller_picture_are_reported(shares: Array) -> None:
    found = doubt(pixels(shares, (3008, 2008)))
    assert found is not None
    assert "another size" in found.message
    assert not len(found.images)
