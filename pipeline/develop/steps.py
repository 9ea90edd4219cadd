"""The steps from mosaic to stored levels, in order. Arrays in, arrays out.

crop -> levels -> green average -> matrix -> fixed point, with the resized level averaged from the
same floats before they are rounded; then the orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.develop import kernels
from pipeline.develop.colour import ColourTransform, colour_transform
from pipeline.develop.resample import area_weights, fitted_size
from pipeline.develop.statistics import CODES, level_statistics
from pipeline.raw.cfa import sites
from schemas.fixed_point import FixedPoint
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Frame, Orientation, PlaneStatistics, Sensor

#: How an EXIF orientation is put upright: whether rows and columns are swapped; then the steps in
#: which the new rows, and the new columns, are read (-1: from their end).
_UPRIGHT: Final[dict[Orientation, tuple[bool, int, int]]] = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}

Values = TypeVar("Values", bound=np.generic)


@dataclass(frozen=True)
class Level:
    """One developed level.

    Attributes
    ----------
    stored
        (3, h, w) uint16 codes, C-contiguous, upright.
    scale_x, scale_y
        Level pixels per frame pixel.
    statistics
        By plane name.
    """

    stored: npt.NDArray[np.uint16]
    scale_x: float
    scale_y: float
    statistics: dict[str, PlaneStatistics]


def upright(planes: npt.NDArray[Values], orientation: Orientation) -> npt.NDArray[Values]:
    """Turn and mirror (..., h, w) as an EXIF orientation asks (EXIF 2.32, tag 274); a view."""
    swap, rows, columns = _UPRIGHT[orientation]
    return (planes.swapaxes(-1, -2) if swap else planes)[..., ::rows, ::columns]


def level_size(frame_size: tuple[int, int], level: LevelName, recipe: Recipe) -> tuple[int, int]:
    """(width, height) of a level for a frame of `frame_size` (width, height)."""
    packed = (frame_size[0] // 2, frame_size[1] // 2)
    return packed if level == "packed" else fitted_size(packed, recipe.fit)


def develop(
    mosaic: npt.NDArray[np.uint16],
    frame: Frame,
    sensor: Sensor,
    recipe: Recipe,
    fixed_point: FixedPoint,
) -> dict[LevelName, Level]:
    """Develop one mosaic.

    Parameters
    ----------
    mosaic
        (raw height, raw width) uint16, the full sensor in DN.
    frame
        What to keep and which way up.
    sensor
        Levels, colour, and the CFA as seen from the crop's corner.
    recipe
        Colour, levels and fit.
    fixed_point
        The group's scale and offset.

    Returns
    -------
    By level name, in the recipe's order.
    """
    height, width = frame.crop.height // 2, frame.crop.width // 2
    out_width, out_height = fitted_size((width, height), recipe.fit)
    if "resized" not in recipe.levels:
        out_height = 0
    transform = colour_transform(sensor, recipe.colour)
    clip, affine = _kernel_constants(transform, fixed_point)
    rows, columns = area_weights(height, max(1, out_height)), area_weights(width, out_width)
    red, _, _, _ = sites(sensor.cfa)
    arrays: dict[LevelName, npt.NDArray[np.uint16]] = {
        "packed": np.empty((3, height, width), np.uint16),
        "resized": np.empty((3, out_height, out_width), np.uint16),
    }
    counts = {name: np.zeros((3, CODES), np.uint32) for name in arrays}
    kernels.develop_rows(
        np.ascontiguousarray(mosaic),
        (frame.crop.y, frame.crop.x),
        red,
        clip,
        affine,
        rows.first,
        rows.weights,
        columns.first,
        columns.weights,
        arrays["packed"],
        arrays["resized"],
        counts["packed"],
        counts["resized"],
    )
    return {
        name: _level(arrays[name], counts[name], frame, recipe, fixed_point)
        for name in recipe.levels
    }


def _level(
    stored: npt.NDArray[np.uint16],
    counts: npt.NDArray[np.integer],
    frame: Frame,
    recipe: Recipe,
    fixed_point: FixedPoint,
) -> Level:
    shown = np.ascontiguousarray(upright(stored, frame.orientation))
    return Level(
        stored=shown,
        scale_x=shown.shape[2] / frame.size[0],
        scale_y=shown.shape[1] / frame.size[1],
        statistics=level_statistics(counts, fixed_point, recipe.planes),
    )


def _kernel_constants(
    transform: ColourTransform, fixed_point: FixedPoint
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Combine black and white levels, matrix and fixed point into the kernel's constants.

    code = (matrix @ cam - add_offset) / scale_factor, affine in (R, G1 + G2, B).
    """
    matrix = transform.matrix / fixed_point.scale_factor * np.array([1.0, 0.5, 1.0])
    constant = np.full(3, -fixed_point.add_offset / fixed_point.scale_factor)
    red, green1, blue, green2 = transform.black
    gains = np.array(transform.gains) / transform.span
    if transform.clipped:
        by_index = np.array([gains[0], gains[1], gains[2], gains[1]])
        clip = np.stack([np.array(transform.black), by_index]).astype(np.float32)
    else:
        clip = np.zeros((0, 0), np.float32)
        matrix = matrix * gains
        constant = constant - matrix @ np.array([red, green1 + green2, blue])
    return clip, np.column_stack([matrix, constant]).astype(np.float32)
