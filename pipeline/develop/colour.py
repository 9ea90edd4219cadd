"""Camera RGB to CIE XYZ (D65), and the fixed point it is stored in.

LibRaw's ``rgb_xyz_matrix`` is XYZ -> camera (its ``cam_xyz``; Adobe's ColorMatrix). Camera -> XYZ
is therefore its *inverse*. Every public reproduction used the matrix without inverting it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from pipeline.errors import UnsupportedRawError
from pipeline.raw.facts import MAX_CONDITION, Levels, check_levels, largest_code
from schemas.fixed_point import FixedPoint
from schemas.recipe import Colour
from schemas.sidecar import Sensor

Matrix = npt.NDArray[np.float64]

#: XYZ of D65 white: the row sums of LibRaw's ``xyz_rgb`` (sRGB -> XYZ).
D65_WHITE = np.array([0.95047, 1.0000001, 1.08883])

#: The camera RGB range is rounded outwards to this step, so that files of one camera whose
#: black levels differ a little share one fixed point.
RANGE_STEP = 1 / 32

_NO_MATRIX = (
    "ingest a DNG that brings one (Adobe DNG Converter writes them), leave the file out, or use "
    "--colour camera and a store of its own"
)


@dataclass(frozen=True)
class ColourTransform:
    """What happens to (R, G1, B, G2) samples of a mosaic, as plain numbers.

    With ``p`` in DN and ``c`` a colour index: ``cam_c = (p_c - black_c) * gain_c / span``; clipped
    to [0, 1] per site if `clipped`; G = (G1 + G2) / 2; ``out = matrix @ (R, G, B)``; clipped again.
    """

    black: tuple[float, float, float, float]
    span: float
    gains: tuple[float, float, float]
    matrix: Matrix
    clipped: bool


def camera_to_xyz(xyz_to_camera: npt.ArrayLike, *, path: str = "") -> Matrix:
    """Invert LibRaw's matrix.

    Parameters
    ----------
    xyz_to_camera
        (3, 3) XYZ (D65) -> camera RGB.

    Raises
    ------
    UnsupportedRawError
        If it is all zeros (LibRaw does not know the camera), not finite, or near singular.
    """
    forward = np.asarray(xyz_to_camera, dtype=np.float64)
    if not np.isfinite(forward).all() or not forward.any():
        raise UnsupportedRawError(
            "colour matrix is all zeros: unknown camera", path=path, mend=_NO_MATRIX
        )
    condition = float(np.linalg.cond(forward))
    if condition > MAX_CONDITION:
        message = f"colour matrix is singular (condition {condition:.3g})"
        raise UnsupportedRawError(message, path=path, mend=_NO_MATRIX)
    return np.asarray(np.linalg.inv(forward), dtype=np.float64)


def colour_transform(sensor: Sensor, colour: Colour, *, path: str = "") -> ColourTransform:
    """The arithmetic of one recipe for one sensor; see docs/reference/colour-and-frame.md."""
    span = sensor.white - min(sensor.black)
    if colour == "camera":
        return ColourTransform(sensor.black, span, (1.0, 1.0, 1.0), np.eye(3), clipped=False)
    inverse = camera_to_xyz(sensor.xyz_to_camera, path=path)
    if colour == "xyz":
        return ColourTransform(sensor.black, span, (1.0, 1.0, 1.0), inverse, clipped=False)
    # LibRaw: cam_xyz is row-normalised by its response s to D65 white, pseudo-inverted, and the
    # daylight multipliers 1/s are scaled so that the smallest is 1 (scale_colors, highlight 0).
    response = np.asarray(sensor.xyz_to_camera, dtype=np.float64) @ D65_WHITE
    daylight = 1.0 / response
    gains = daylight / daylight.min()
    balanced = inverse @ np.diag(response)
    return ColourTransform(
        sensor.black, span, (float(gains[0]), float(gains[1]), float(gains[2])), balanced, True
    )


def camera_range(sensor: Sensor, largest: int | None = None) -> tuple[float, float]:
    """Lowest and highest camera RGB of samples from 0 to `largest` DN, by default the largest code
    of the format; rounded outwards to `RANGE_STEP`.
    """
    span = sensor.white - min(sensor.black)
    lowest = -max(sensor.black) / span
    top = largest_code(sensor) if largest is None else largest
    highest = (top - min(sensor.black)) / span
    return floor(lowest / RANGE_STEP) * RANGE_STEP, ceil(highest / RANGE_STEP) * RANGE_STEP


def own_range(
    levels: Levels, colour: Colour, *, largest: int | None = None, path: str = ""
) -> FixedPoint:
    """`fixed_point` for the levels of one file, which are checked first.

    Raises
    ------
    UnsupportedRawError
        If they are not plausible, or the recipe needs a matrix and there is none.
    """
    check_levels(levels, path=path)
    if levels.matrix_problem and colour != "camera":
        raise UnsupportedRawError(levels.matrix_problem, path=path, mend=_NO_MATRIX)
    sensor = Sensor(
        cfa=levels.cfa, black=levels.black, white=levels.white, xyz_to_camera=levels.xyz_to_camera
    )
    return fixed_point(sensor, colour, largest=largest, path=path)


def fixed_point(
    sensor: Sensor, colour: Colour, *, largest: int | None = None, path: str = ""
) -> FixedPoint:
    """A scale and offset with which no sample in `camera_range` saturates, for all three planes.

    Plane i of ``M @ cam`` with cam in [lo, hi] spans the sums of min and max of (M_ij lo, M_ij hi).
    """
    transform = colour_transform(sensor, colour, path=path)
    if transform.clipped:
        return FixedPoint.spanning(0.0, 1.0)
    low, high = camera_range(sensor, largest)
    ends = np.stack([transform.matrix * low, transform.matrix * high])
    return FixedPoint.spanning(
        float(ends.min(axis=0).sum(axis=1).min()), float(ends.max(axis=0).sum(axis=1).max())
    )
