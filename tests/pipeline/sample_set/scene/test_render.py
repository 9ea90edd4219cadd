"""The scene: same seed same street, boxes that belong to what is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.sample_set import Scene, compose_scene, render_scene, without_thing
from pipeline.sample_set.scene.canvas import polygon_distance
from pipeline.sample_set.scene.light import Lamp, irradiance

WIDTH, HEIGHT = 360, 240


@pytest.fixture(params=range(4))
def scene(request: pytest.FixtureRequest) -> Scene:
    return compose_scene((7, int(request.param)))


def test_same_seed_same_pixels_and_another_seed_others(scene: Scene) -> None:
    again = compose_scene(scene.seed)
    first = render_scene(scene, width=WIDTH, height=HEIGHT)
    second = render_scene(again, width=WIDTH, height=HEIGHT)
    np.testing.assert_array_equal(first.xyz, second.xyz)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    other = render_scene(compose_scene((8, scene.seed[1])), width=WIDTH, height=HEIGHT)
    assert not np.array_equal(first.xyz, other.xyz)


def test_boxes_are_tight_around_what_is_seen(scene: Scene) -> None:
    drawn = render_scene(scene, width=WIDTH, height=HEIGHT)
    assert 1 <= len(drawn.boxes) <= 8
    assert len(drawn.boxes) == len(drawn.labels)
    for number, (x, y, w, h) in enumerate(drawn.boxes):
        assert x >= 0
        assert y >= 0
        assert x + w <= WIDTH
        assert y + h <= HEIGHT
        mine = drawn.owner == number
        inside = mine[y : y + h, x : x + w]
        assert inside.sum() == mine.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


def test_taking_an_object_away_changes_the_pixels_it_owned(scene: Scene) -> None:
    drawn = render_scene(scene, width=WIDTH, height=HEIGHT)
    assert len(drawn.boxes) == len(scene.things)  # else numbers would not match
    for number in range(len(scene.things)):
        without = render_scene(without_thing(scene, number), width=WIDTH, height=HEIGHT)
        brightness = np.maximum(drawn.xyz[1], without.xyz[1]) + 1e-3
        changed = np.abs(drawn.xyz - without.xyz).max(axis=0) > 0.02 * brightness
        mine = drawn.owner == number
        assert changed[mine].mean() > 0.8
        # Shadow and glare reach out of the box, but the object is in it.
        x, y, w, h = drawn.boxes[number]
        strong = np.abs(drawn.xyz[1] - without.xyz[1]) > 0.7 * brightness
        outside = strong.copy()
        outside[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1] = False
        assert outside.sum() <= 0.05 * mine.sum() + 2


def test_the_same_scene_drawn_larger_has_larger_boxes(scene: Scene) -> None:
    small = render_scene(scene, width=WIDTH, height=HEIGHT)
    large = render_scene(scene, width=2 * WIDTH, height=2 * HEIGHT)
    np.testing.assert_array_equal(small.labels, large.labels)
    # Thin parts are drawn at least a pixel wide, so small pictures round boxes outwards.
    np.testing.assert_allclose(large.boxes / 2, small.boxes, atol=3)


def test_by_day_the_same_things_stand_in_even_light(scene: Scene) -> None:
    night = render_scene(scene, width=WIDTH, height=HEIGHT)
    day = render_scene(scene, width=WIDTH, height=HEIGHT, illumination="day")
    np.testing.assert_array_equal(night.boxes, day.boxes)
    np.testing.assert_array_equal(night.labels, day.labels)

    def contrast(luminance: npt.NDArray[np.float32]) -> float:
        low, high = np.percentile(luminance, [5, 99.9])
        return float(high / low)

    assert contrast(day.xyz[1]) < 25
    assert contrast(night.xyz[1]) > 2 * contrast(day.xyz[1])


def test_night_radiance_is_finite_and_has_bright_lamps_in_dark_streets() -> None:
    drawn = render_scene(compose_scene((0, 0)), width=WIDTH, height=HEIGHT)
    assert drawn.xyz.dtype == np.float32
    assert np.isfinite(drawn.xyz).all()
    assert drawn.xyz[1].min() >= 0
    assert drawn.xyz[1].max() > 50 * np.median(drawn.xyz[1])


def test_an_upright_frame_is_possible() -> None:
    drawn = render_scene(compose_scene((0, 3), aspect=2 / 3), width=240, height=360)
    assert drawn.xyz.shape == (3, 360, 240)
    assert len(drawn.boxes) >= 1


def test_persons_are_most_frequent_then_bicycles_then_cars() -> None:
    scenes = [compose_scene((0, index)) for index in range(120)]
    counts = Counter(thing.label for scene in scenes for thing in scene.things)
    assert counts[1] > counts[2] > counts[3] > 20
    sizes = Counter(len(scene.things) for scene in scenes)
    assert min(sizes) >= 1
    assert max(sizes) == 8
    temperatures = [scene.temperature for scene in scenes]
    assert min(temperatures) < 2300
    assert max(temperatures) > 4500


def test_distance_to_a_square_by_hand() -> None:
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    x = np.array([[2.0, 2.0, 7.0, -3.0]], np.float32)
    y = np.array([[2.0, 1.0, 2.0, -4.0]], np.float32)
    np.testing.assert_allclose(polygon_distance(x, y, square), [[-2.0, -1.0, 3.0, 5.0]])


def test_light_falls_with_the_square_of_the_distance() -> None:
    lamp = Lamp((0.0, 10.0, 0.0), 100.0, (1.0, 0.5, 0.25))
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    near = irradiance([lamp], zero, zero, zero, normal=(zero, one, zero))
    far = irradiance([lamp], zero, zero - 10, zero, normal=(zero, one, zero))
    assert near[0, 0] == pytest.approx(1.0, rel=0.01)
    assert far[0, 0] == pytest.approx(0.25, rel=0.01)
    assert near[2, 0] == pytest.approx(0.25, rel=0.01)
