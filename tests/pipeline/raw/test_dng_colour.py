"""The DNG specification's formula in plain float64, against what is made of a file's tags."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.raw.dng_colour import DngColour, UnusableMatrixError, daylight_matrix
from pipeline.raw.tiff import read_tiff
from pipeline.sample_set.formats.dng import DngFile, dng_bytes
from pipeline.sample_set.formats.tiff_writer import (
    Field,
    ascii_field,
    rational_field,
    short_field,
    signed_rational_field,
)
from tests.kit.raw_files import noise

Matrix = npt.NDArray[np.float64]

CM1, CM2, CM3 = 0xC621, 0xC622, 0xCD33
CC1, CC2 = 0xC623, 0xC624
LIGHT1, LIGHT2, LIGHT3 = 0xC65A, 0xC65B, 0xCD31
BALANCE, CAMERA_SIGNATURE, PROFILE_SIGNATURE = 0xC627, 0xC6F3, 0xC6F4

A, D50, D55, D65, D75, TUNGSTEN, STUDIO, UNKNOWN, OTHER = 17, 23, 20, 21, 22, 3, 24, 0, 255

DAYLIGHT = np.array([[0.90, -0.29, -0.07], [-0.45, 1.24, 0.23], [-0.09, 0.19, 0.71]])
WARM = np.array([[1.10, -0.50, 0.02], [-0.38, 1.17, 0.25], [-0.02, 0.12, 0.62]])
SHADE = np.array([[0.84, -0.24, -0.08], [-0.47, 1.26, 0.22], [-0.11, 0.21, 0.74]])


def matrix_field(matrix: Matrix) -> Field:
    return signed_rational_field(*matrix.ravel().tolist())


def colour(tags: Mapping[int, Field | None], byte_order: Any = "<") -> DngColour:
    """What is read of a DNG with these tags and no others about colour."""
    bare: dict[int, Field | None] = dict.fromkeys((CM1, CM2, LIGHT1, LIGHT2))
    dng = DngFile(byte_order=byte_order, tags=bare | dict(tags))
    facts = read_tiff(dng_bytes(noise(), dng=dng))
    assert facts is not None
    assert facts.colour is not None
    return facts.colour


def two(first: int, second: int, ones: Matrix = WARM, twos: Matrix = DAYLIGHT) -> dict[int, Any]:
    return {
        CM1: matrix_field(ones),
        CM2: matrix_field(twos),
        LIGHT1: short_field(first),
        LIGHT2: short_field(second),
    }


def assert_matrix(found: DngColour, expected: Matrix) -> None:
    np.testing.assert_allclose(daylight_matrix(found), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(("first", "second"), [(A, D65), (TUNGSTEN, D65), (STUDIO, D65)])
def test_a_matrix_for_d65_is_the_one(first: int, second: int, byte_order: Any) -> None:
    assert_matrix(colour(two(first, second), byte_order), DAYLIGHT)
    assert_matrix(colour(two(second, first, DAYLIGHT, WARM), byte_order), DAYLIGHT)


def test_d65_between_two_lights_is_interpolated_in_inverse_temperature() -> None:
    """By the specification; temperatures are those of the lights."""
    inverse = {light: 1 / kelvins for light, kelvins in {A: 2850, D65: 6500, D75: 7500}.items()}
    warm = (inverse[D65] - inverse[D75]) / (inverse[A] - inverse[D75])
    assert 0.09 < warm < 0.1
    expected = warm * WARM + (1 - warm) * SHADE
    assert_matrix(colour(two(A, D75, WARM, SHADE)), expected)
    assert_matrix(colour(two(D75, A, SHADE, WARM)), expected)


@pytest.mark.parametrize("lights", [(A, D50), (D50, A), (STUDIO, D50), (D55, D50)])
def test_where_d65_is_outside_the_nearest_light_stands_for_it(lights: tuple[int, int]) -> None:
    """GoPro's cameras bring tungsten and D50."""
    near = max(lights, key={A: 2850, STUDIO: 3200, D50: 5000, D55: 5500}.__getitem__)
    first, second = (DAYLIGHT if light == near else WARM for light in lights)
    assert_matrix(colour(two(*lights, first, second)), DAYLIGHT)


def test_of_three_lights_the_two_beside_d65_count() -> None:
    tags = two(A, D75, WARM, SHADE) | {CM3: matrix_field(DAYLIGHT), LIGHT3: short_field(D50)}
    warm = (1 / 6500 - 1 / 7500) / (1 / 5000 - 1 / 7500)
    assert_matrix(colour(tags), warm * DAYLIGHT + (1 - warm) * SHADE)


def test_one_matrix_for_daylight_is_enough_and_one_of_no_known_light_does_not_count() -> None:
    one = {CM1: matrix_field(DAYLIGHT), LIGHT1: short_field(D55)}
    assert_matrix(colour(one), DAYLIGHT)
    assert_matrix(colour(two(OTHER, D65)), DAYLIGHT)
    assert_matrix(colour(two(D65, UNKNOWN, DAYLIGHT, WARM)), DAYLIGHT)


def test_calibration_and_analog_balance_come_before_the_matrix() -> None:
    """XYZ to camera = AB @ CC @ CM, each of CC and CM interpolated."""
    first = np.array([[1.02, 0.01, 0.0], [0.0, 1.0, 0.02], [0.01, 0.0, 0.97]])
    second = np.array([[0.96, 0.0, 0.02], [0.01, 1.0, 0.0], [0.0, 0.02, 1.05]])
    tags = two(A, D75, WARM, SHADE) | {
        CC1: matrix_field(first),
        CC2: matrix_field(second),
        BALANCE: rational_field(1.25, 1, 0.75),
    }
    warm = (1 / 6500 - 1 / 7500) / (1 / 2850 - 1 / 7500)
    between = [warm * a + (1 - warm) * b for a, b in ((first, second), (WARM, SHADE))]
    balance = np.diag([1.25, 1, 0.75])
    assert_matrix(colour(tags), balance @ between[0] @ between[1])
    # A calibration is for the profile with its own signature.
    signed = {CAMERA_SIGNATURE: ascii_field("com.one"), PROFILE_SIGNATURE: ascii_field("com.two")}
    assert_matrix(colour(tags | signed), balance @ between[1])
    signed[PROFILE_SIGNATURE] = ascii_field("com.one")
    assert_matrix(colour(tags | signed), balance @ between[0] @ between[1])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "it has none"),
        ({CM1: matrix_field(WARM), LIGHT1: short_field(A)}, "none for daylight"),
        (two(A, STUDIO), "none for daylight"),
        ({CM1: matrix_field(DAYLIGHT)}, "for which light"),
        (two(UNKNOWN, OTHER), "for which light"),
        (two(A, D65, twos=np.ones((3, 3))), "singular"),
        (two(A, D65, twos=np.zeros((3, 3))), "singular"),
        (two(A, D65, twos=-DAYLIGHT), "white"),
        (two(A, D65, twos=np.vstack([DAYLIGHT, WARM[:1]])), "three colours"),
        (two(A, D65) | {CC2: rational_field(1, 1)}, "camera calibration"),
        (two(A, D65) | {BALANCE: rational_field(1, 0, 1)}, "analog balance"),
        (two(A, D65) | {CM2: short_field(*range(9))}, "three colours"),
    ],
)
def test_what_gives_no_matrix_for_daylight_is_refused_with_the_reason(
    tags: dict[int, Field | None], reason: str
) -> None:
    with pytest.raises(UnusableMatrixError, match=reason):
        daylight_matrix(colour(tags))


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("over", [0, 9])
def test_a_number_divided_by_zero_is_refused_and_not_read_as_zero(
    over: int, byte_order: Any
) -> None:
    dng = replace(DngFile(color_matrix=tuple(DAYLIGHT.ravel())), byte_order=byte_order)
    file = dng_bytes(noise(), dng=dng)
    fraction = Fraction(0.9).limit_denominator(100)
    good = struct.pack(byte_order + "2i", fraction.numerator, fraction.denominator)
    assert file.count(good) == 2
    facts = read_tiff(file.replace(good, struct.pack(byte_order + "2i", over, 0)))
    assert facts is not None
    assert facts.colour is not None
    with pytest.raises(UnusableMatrixError, match="divides by zero"):
        daylight_matrix(facts.colour)


def test_other_files_say_nothing_about_colour() -> None:
    facts = read_tiff(b"II*\0" + struct.pack("<IHI", 8, 0, 0))
    assert facts is not None
    assert facts.colour is None
