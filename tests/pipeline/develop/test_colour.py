from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.develop.colour import D65_WHITE, camera_to_xyz, colour_transform, fixed_point
from pipeline.errors import UnsupportedRawError
from pipeline.raw.facts import largest_code
from schemas.fixed_point import NOISE_ROOM, ZERO_STEP, FixedPoint
from schemas.recipe import Colour
from schemas.sidecar import Matrix3, Sensor

D750: Matrix3 = ((0.9020, -0.2890, -0.0715), (-0.4535, 1.2436, 0.2348), (-0.0934, 0.1919, 0.7086))
RX100M7: Matrix3 = (
    (1.0315, -0.4390, -0.0937),
    (-0.4859, 1.2734, 0.2365),
    (-0.0734, 0.1537, 0.5997),
)
# Inverted with LibRaw's numbers by another program, to four decimals.
KNOWN_INVERSES = {
    D750: [[1.2562, 0.2871, 0.0316], [0.4499, 0.9502, -0.2695], [0.0438, -0.2195, 1.4884]],
    RX100M7: [[1.1578, 0.3962, 0.0247], [0.4363, 0.9738, -0.3159], [0.0299, -0.2011, 1.7515]],
}
# Lowest and highest X, Y, Z of any sample: by arithmetic in the format's specification.
KNOWN_RANGES = {
    RX100M7: ((-0.081, 1.662), (-0.405, 1.501), (-0.303, 1.886)),
    D750: ((-0.060, 1.575), (-0.323, 1.410), (-0.278, 1.541)),
}
# LibRaw's daylight_whitebalance: 1 / response to D65 white.
KNOWN_DAYLIGHT = {D750: (2.0389, 0.9361, 1.1433), RX100M7: (2.2759, 0.9354, 1.3570)}
COLOURS: tuple[Colour, ...] = ("xyz", "xyz-balanced", "camera")

both_cameras = pytest.mark.parametrize("matrix", [D750, RX100M7], ids=["D750", "RX100M7"])


def sensor_with(
    matrix: Matrix3, black: tuple[float, float, float, float], white: float = 16383
) -> Sensor:
    return Sensor(cfa="RGGB", black=black, white=white, xyz_to_camera=matrix)


def default_sensor(matrix: Matrix3) -> Sensor:
    level = 600.0 if matrix is D750 else 800.0
    return sensor_with(matrix, (level, level, level, level))


@st.composite
def matrices(draw: st.DrawFn) -> Matrix3:
    """The two cameras', and random ones about as well conditioned as any camera's."""
    if draw(st.booleans()):
        return draw(st.sampled_from([D750, RX100M7]))
    entry = st.floats(-1.5, 1.5, allow_nan=False, width=32)
    rows = draw(st.tuples(*[st.tuples(entry, entry, entry)] * 3))
    assume(np.linalg.cond(np.array(rows)) < 50)
    assume(np.abs(rows).max() > 0.1)
    return rows


@st.composite
def sensors(draw: st.DrawFn) -> Sensor:
    white = draw(st.sampled_from([1023, 4095, 15871, 16383, 65535]))
    black = st.integers(0, white // 2).map(float)
    return sensor_with(draw(matrices()), draw(st.tuples(black, black, black, black)), white)


def xyz_of(sensor: Sensor, samples: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The design's formula, written out: (n, 4) R, G1, B, G2 in DN -> (n, 3) XYZ."""
    span = sensor.white - min(sensor.black)
    red, green1, blue, green2 = ((np.asarray(samples, float) - sensor.black) / span).T
    rgb = np.stack([red, (green1 + green2) / 2, blue])
    return np.asarray(np.linalg.solve(np.array(sensor.xyz_to_camera), rgb).T, np.float64)


@both_cameras
def test_camera_to_xyz_is_the_known_inverse(matrix: Matrix3) -> None:
    inverse = camera_to_xyz(matrix)
    np.testing.assert_allclose(inverse, KNOWN_INVERSES[matrix], atol=6e-5)
    np.testing.assert_allclose(inverse @ np.array(matrix), np.eye(3), atol=1e-14)


@both_cameras
def test_the_response_to_d65_white_comes_back_as_d65_white(matrix: Matrix3) -> None:
    # The response is taken from LibRaw's own daylight multipliers, not from our code.
    response = 1 / np.array(KNOWN_DAYLIGHT[matrix])
    np.testing.assert_allclose(camera_to_xyz(matrix) @ response, D65_WHITE, atol=2e-4)


@both_cameras
def test_the_matrix_used_as_it_stands_does_not_bring_white_back(matrix: Matrix3) -> None:
    # The common mistake: XYZ -> camera applied to camera RGB. Far from white, whatever the scale.
    wrong = np.array(matrix) @ (1 / np.array(KNOWN_DAYLIGHT[matrix]))
    assert np.abs(wrong / wrong[1] - D65_WHITE).max() > 0.2
    transform = colour_transform(default_sensor(matrix), "xyz")
    assert np.abs(transform.matrix - np.array(matrix)).max() > 0.3


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.zeros((3, 3)), "zeros"),
        (np.full((3, 3), np.nan), "matrix"),
        (np.diag([1.0, np.inf, 1.0]), "matrix"),
        (np.array([[1, 2, 3], [2, 4, 6], [0, 1, 1]]), "singular"),
        (np.diag([1.0, 1.0, 1e-4]), "singular"),
        (np.diag([1.0, 1.0, 0.0]), "singular"),
    ],
)
def test_a_matrix_that_cannot_be_inverted_is_refused(matrix: Any, reason: str) -> None:
    with pytest.raises(UnsupportedRawError, match=reason) as caught:
        camera_to_xyz(matrix, path="night.nef")
    assert caught.value.path == "night.nef"
    assert "--colour camera" in caught.value.mend


def test_camera_colour_needs_no_matrix() -> None:
    zeros: Matrix3 = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    transform = colour_transform(sensor_with(zeros, (600.0, 600.0, 600.0, 600.0)), "camera")
    np.testing.assert_array_equal(transform.matrix, np.eye(3))
    assert not transform.clipped


@both_cameras
def test_balanced_is_unbalanced_times_the_largest_response(matrix: Matrix3) -> None:
    # With daylight multipliers LibRaw's XYZ is ours times max(s), before its clips.
    sensor = default_sensor(matrix)
    balanced, plain = colour_transform(sensor, "xyz-balanced"), colour_transform(sensor, "xyz")
    assert balanced.clipped
    assert not plain.clipped
    largest_response = 1 / min(KNOWN_DAYLIGHT[matrix])
    np.testing.assert_allclose(
        balanced.matrix @ np.diag(balanced.gains), largest_response * plain.matrix, atol=2e-4
    )
    np.testing.assert_allclose(balanced.matrix @ np.ones(3), D65_WHITE, atol=1e-6)


@given(sensor=sensors(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_sample_the_sensor_can_give_saturates(sensor: Sensor, data: st.DataObject) -> None:
    point = fixed_point(sensor, "xyz")
    # A linear map has its extremes at the corners of the box of samples; a few inside as well.
    corners = list(itertools.product([0, largest_code(sensor)], repeat=4))
    sample = st.integers(0, largest_code(sensor))
    inside = data.draw(st.lists(st.tuples(sample, sample, sample, sample), max_size=5))
    codes = (xyz_of(sensor, corners + inside) - point.add_offset) / point.scale_factor
    assert codes.min() >= -1e-6
    assert codes.max() <= 65535 + 1e-6


@given(sensor=sensors(), colour=st.sampled_from(COLOURS))
@settings(max_examples=150, deadline=None)
def test_zero_has_an_exact_code(sensor: Sensor, colour: Colour) -> None:
    if colour == "xyz-balanced":
        assume(min(np.array(sensor.xyz_to_camera) @ D65_WHITE) > 0.01)
    point = fixed_point(sensor, colour)
    code = round(-point.add_offset / point.scale_factor)
    assert 0 <= code <= 65535
    assert code * point.scale_factor + point.add_offset == 0


@given(
    low=st.floats(-1e3, 0, allow_subnormal=False),
    width=st.floats(1e-3, 1e3, allow_subnormal=False),
)
@settings(max_examples=200, deadline=None)
def test_a_fixed_point_spans_its_ends_and_little_more(low: float, width: float) -> None:
    high = low + width
    assume(high >= 0)
    point = FixedPoint.spanning(low, high)
    top = point.add_offset + 65535 * point.scale_factor
    slack = 1e-9 * (abs(low) + abs(high))
    assert point.add_offset <= low + slack
    assert top >= high - slack
    assert top - point.add_offset <= 1.07 * width + slack


@both_cameras
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_codes_around_zero_share_their_upper_bits(matrix: Matrix3, data: st.DataObject) -> None:
    """What the dark half of a night image holds: noise around 0 must not turn high bit planes."""
    colours: tuple[Colour, ...] = ("xyz", "camera")  # the balanced recipe clips: nothing below 0
    colour = data.draw(st.sampled_from(colours))
    point = fixed_point(default_sensor(matrix), colour)
    zero = round(-point.add_offset / point.scale_factor)
    dark = zero + data.draw(st.integers(-NOISE_ROOM, ZERO_STEP - NOISE_ROOM - 1))
    assert dark // ZERO_STEP == zero // ZERO_STEP


@both_cameras
def test_the_specified_ranges_lie_inside(matrix: Matrix3) -> None:
    point = fixed_point(default_sensor(matrix), "xyz")
    assert isinstance(point.scale_factor, float)  # one scalar pair for all three planes
    assert isinstance(point.add_offset, float)
    top = point.add_offset + 65535 * point.scale_factor
    for low, high in KNOWN_RANGES[matrix]:
        assert point.add_offset <= low
        assert top >= high


@both_cameras
def test_the_step_stays_below_the_noise_of_a_14_bit_file(matrix: Matrix3) -> None:
    sensor = default_sensor(matrix)
    step_in_dn = fixed_point(sensor, "xyz").scale_factor * (sensor.white - min(sensor.black))
    assert 0.3 < step_in_dn < 0.65


@both_cameras
def test_files_whose_black_differs_a_little_share_one_fixed_point(matrix: Matrix3) -> None:
    points = {
        fixed_point(sensor_with(matrix, (black, black + 1, black, black)), "xyz")
        for black in (596.0, 600.0, 604.0)
    }
    assert len(points) == 1


def test_codes_of_sony_above_white_are_believed_and_doubled_white_is_not() -> None:
    # The tone curve of Sony's lossy raws ends at 17204, above the white level of 16383.
    largest = largest_code(default_sensor(RX100M7))
    assert 17204 <= largest < 1.1 * 16383
