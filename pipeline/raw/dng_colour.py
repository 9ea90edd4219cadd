"""The colour matrices that a DNG brings, made one for D65 as the DNG specification says.

Tags and arithmetic: Adobe, Digital Negative Specification 1.7, "Camera Profile Tags" and "Mapping
Camera Color Space to CIE XYZ Space". Temperatures of illuminants: Adobe's DNG SDK, which the
specification leaves them to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.raw.facts import MAX_CONDITION, matrix3
from pipeline.raw.tiff_reader import TiffDirectory, TiffReader
from schemas.sidecar import Matrix3

#: ColorMatrix, CameraCalibration and CalibrationIlluminant, numbers 1, 2 and (DNG 1.6) 3.
_CALIBRATION_TAGS: Final = (
    (0xC621, 0xC623, 0xC65A),
    (0xC622, 0xC624, 0xC65B),
    (0xCD33, 0xCD32, 0xCD31),
)
_ANALOG_BALANCE: Final = 0xC627
_CAMERA_SIGNATURE, _PROFILE_SIGNATURE = 0xC6F3, 0xC6F4
#: More numbers than any of these tags has: nine for three colours, twelve for four.
_MOST: Final = 64

#: Correlated colour temperatures in kelvins, by EXIF LightSource.
_TEMPERATURES: Final[dict[int, float]] = {
    1: 5500.0,  # daylight
    2: 4150.0,  # fluorescent
    3: 2850.0,  # tungsten
    4: 5500.0,  # flash
    9: 5500.0,  # fine weather
    10: 6500.0,  # cloudy
    11: 7500.0,  # shade
    12: 6400.0,  # fluorescent lamps: daylight, day white, cool white, white, warm white
    13: 5050.0,
    14: 4150.0,
    15: 3450.0,
    16: 2925.0,
    17: 2850.0,  # standard lights A, B, C
    18: 5500.0,
    19: 6500.0,
    20: 5500.0,  # D55, D65, D75, D50
    21: 6500.0,
    22: 7500.0,
    23: 5000.0,
    24: 3200.0,  # ISO studio tungsten
}
_D65: Final = 6500.0
#: A matrix for a light warmer than this says nothing of daylight, for which it would have to stand.
_WARMEST: Final = 4500.0
_WHITE: Final = (0.95047, 1.0, 1.08883)


class UnusableMatrixError(ValueError):
    """Raised with the reason why a file's own matrices give none for D65."""


@dataclass(frozen=True)
class Calibration:
    """One light, and what the camera does with colours under it.

    Attributes
    ----------
    illuminant
        EXIF LightSource; 0 where the file does not say.
    colour
        ColorMatrix, XYZ -> reference camera, by rows; nan where a number divides by zero.
    camera
        CameraCalibration, reference camera -> this one, by rows; () where there is none.
    """

    illuminant: int
    colour: tuple[float, ...]
    camera: tuple[float, ...]


@dataclass(frozen=True)
class DngColour:
    """What a DNG says about colour.

    Attributes
    ----------
    calibrations
        One to three, in the file's order; () where it has no matrix.
    analog_balance
        Gains that the samples were given, by colour; () where there are none.
    """

    calibrations: tuple[Calibration, ...]
    analog_balance: tuple[float, ...]


def read_dng_colour(reader: TiffReader, main: TiffDirectory) -> DngColour:
    """Read a DNG's matrices from its IFD0.

    Raises
    ------
    CorruptRawError
        If they lie beyond the end of the data.
    """
    # Calibrations of one camera belong to the profile with the same signature, and to no other.
    signed = reader.text(main, _CAMERA_SIGNATURE) == reader.text(main, _PROFILE_SIGNATURE)
    return DngColour(
        calibrations=tuple(
            Calibration(
                illuminant=reader.integer(main, illuminant),
                colour=reader.numbers(main, colour, _MOST),
                camera=reader.numbers(main, camera, _MOST) if signed else (),
            )
            for colour, camera, illuminant in _CALIBRATION_TAGS
            if colour in main
        ),
        analog_balance=reader.numbers(main, _ANALOG_BALANCE, _MOST),
    )


def daylight_matrix(colour: DngColour) -> Matrix3:
    """XYZ (D65) -> camera: analog balance @ camera calibration @ colour matrix.

    Matrices and calibrations of two lights, one on each side of D65, are interpolated linearly in
    the inverse of their colour temperature. Where all lights are on one side of D65, the nearest
    one's stand for it.

    Returns
    -------
    (3, 3), as `matrix3` spells it.

    Raises
    ------
    UnusableMatrixError
        If there is no matrix, none whose light is known, none for daylight, or what there is
        cannot be a camera's.
    """
    if not colour.calibrations:
        raise UnusableMatrixError("it has none")
    known = [one for one in colour.calibrations if one.illuminant in _TEMPERATURES]
    if not known:
        raise UnusableMatrixError("it does not say for which light its matrices are")
    shares = _shares(known)
    matrix = (
        _gains(colour.analog_balance)
        @ sum(share * _calibration(one) for one, share in shares)
        @ sum(share * _square(one.colour, "colour matrix") for one, share in shares)
    )
    condition = float(np.linalg.cond(matrix))
    if not condition <= MAX_CONDITION:
        raise UnusableMatrixError(f"its matrix is singular (condition {condition:.3g})")
    if (matrix @ _WHITE).min() <= 0:
        raise UnusableMatrixError("by its matrix, white light darkens a colour of the sensor")
    return matrix3(matrix.ravel().tolist())


def _shares(known: list[Calibration]) -> list[tuple[Calibration, float]]:
    """The calibrations that count, and how much; shares add up to 1."""
    by_light = sorted(known, key=lambda one: _TEMPERATURES[one.illuminant])
    warmer = [one for one in by_light if _TEMPERATURES[one.illuminant] <= _D65]
    cooler = [one for one in by_light if _TEMPERATURES[one.illuminant] >= _D65]
    if not cooler:
        nearest = _TEMPERATURES[warmer[-1].illuminant]
        if nearest < _WARMEST:
            raise UnusableMatrixError(f"it has none for daylight, only for light of {nearest:g} K")
        return [(warmer[-1], 1.0)]
    if not warmer:
        return [(cooler[0], 1.0)]
    low, high = _TEMPERATURES[warmer[-1].illuminant], _TEMPERATURES[cooler[0].illuminant]
    if low == high:
        return [(cooler[0], 1.0)]
    share = (1 / _D65 - 1 / high) / (1 / low - 1 / high)
    return [(warmer[-1], share), (cooler[0], 1 - share)]


def _calibration(one: Calibration) -> npt.NDArray[np.float64]:
    return _square(one.camera, "camera calibration") if one.camera else np.eye(3)


def _square(values: tuple[float, ...], name: str) -> npt.NDArray[np.float64]:
    if len(values) != 9:
        raise UnusableMatrixError(f"its {name} is not for three colours ({len(values)} numbers)")
    if not np.isfinite(values).all():
        raise UnusableMatrixError(f"a number of its {name} divides by zero")
    return np.array(values, np.float64).reshape(3, 3)


def _gains(balance: tuple[float, ...]) -> npt.NDArray[np.float64]:
    if not balance:
        return np.eye(3)
    if len(balance) != 3 or not np.isfinite(balance).all() or min(balance) <= 0:
        raise UnusableMatrixError(f"its analog balance {balance} is not three gains")
    return np.diag(np.array(balance, np.float64))
